"""The speed of this machine."""

from pipelines.starter.speed import Machine, Size, this_machine


def test_step_of_a_model_takes_time():
    assert 0 < Machine(False, 1).seconds_per_step(Size(0, 1, 1, 32, 16, 2), 300, 16) < 60


def test_machine_has_threads():
    machine = this_machine()
    assert machine.threads >= 1 and machine.budget > 60
