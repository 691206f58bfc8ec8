"""The command `pipeline alerts`, which tries the endpoints of alerts. What it needs is loaded when it runs."""

import typer

APP = typer.Typer(no_args_is_help=True, help="Who is alerted, and whether it reaches them.")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(APP, name="alerts")


@APP.callback()
def alerts() -> None:
    """Who is alerted, and whether it reaches them."""


@APP.command()
def test() -> None:
    """Send a message to each endpoint of PIPELINE_ALERT_URLS, and show which took it; exit code 1 where one did not."""
    from pipeline_assets.alerts.outbox import Message, endpoint_of
    from pipeline_assets.alerts.send import Order, sent
    from pipeline_assets.core.errors import UserInputError
    from pipeline_assets.core.settings import AlertSettings, home_folder, read_part

    owners = read_part(AlertSettings, home_folder()).alert_urls
    if not any(owners.values()):
        raise UserInputError("PIPELINE_ALERT_URLS names nobody to alert. Set it to URLs of Apprise between blanks.")
    message = Message(number="test", title="Alerts reach you", body="This is a test of `pipeline alerts test`. There is nothing to do.")
    urls = {endpoint_of(url.get_secret_value()): url.get_secret_value() for each in owners.values() for url in each}
    answers = sent([Order(endpoint=endpoint, url=url, message=message) for endpoint, url in urls.items()])
    for owner, each in owners.items():
        for url in each:
            endpoint = endpoint_of(url.get_secret_value())
            kind = url.get_secret_value().partition("://")[0]
            typer.echo(f"{owner}: {kind} {endpoint}: {answers[endpoint] or 'delivered'}")
    if any(problem is not None for problem in answers.values()):
        raise typer.Exit(code=1)
