"""The things that features describe."""

from pipeline_assets.spec.features import Entity

origin = Entity(name="origin", keys=("origin",), description="An airport of departure.")
carrier = Entity(name="carrier", keys=("carrier",), description="An airline.")
route = Entity(name="route", keys=("origin", "dest"), description="A pair of airports, in flight direction.")
aircraft = Entity(name="aircraft", keys=("tailnum",), description="An aircraft, by its registration.")
destination = Entity(name="destination", keys=("dest",), description="An airport of arrival.")
