"""The tests. Hypothesis must not fail a test because the machine is busy: how long a draw takes proves nothing."""

from hypothesis import HealthCheck, settings

settings.register_profile("kubebus", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("kubebus")
