"""What is watched once the model is live."""

from datetime import timedelta

from pipeline_assets.spec.monitors import Monitor
from pipeline_assets.use_cases.nyc_flights.model import flight_delay

flight_delay_monitor = Monitor(
    model=flight_delay,
    bins=10,
    max_psi=0.25,
    max_drifted_share=0.3,
    min_roc_auc=0.62,
    min_labels=300,
    report_sample_rows=2_000,
    cool_down=timedelta(days=7),
)
