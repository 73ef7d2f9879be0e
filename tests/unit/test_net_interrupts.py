"""Ctrl-C is heard where the client waits, kept where it does not, and never leaves a step half taken."""

import os
import signal
import time

import pytest

from matcher.net.interrupts import Interrupts


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def press_and_wait() -> None:
    press()
    time.sleep(5)


def test_ctrl_c_while_waiting_is_heard_at_once() -> None:
    with Interrupts() as interrupts, pytest.raises(KeyboardInterrupt), interrupts.waiting():
        press_and_wait()


def test_ctrl_c_in_the_middle_of_a_step_is_kept_until_the_next_wait() -> None:
    with Interrupts() as interrupts:
        press()
        done = "the step is whole"
        with pytest.raises(KeyboardInterrupt), interrupts.waiting():
            pytest.fail("waited")
    assert done


def test_ctrl_c_is_heard_once() -> None:
    with Interrupts() as interrupts:
        press()
        with pytest.raises(KeyboardInterrupt), interrupts.waiting():
            pass
        with interrupts.waiting():
            pass


def test_afterwards_ctrl_c_is_what_it_was() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interrupts():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


def test_a_wait_that_ended_with_an_error_is_no_wait_any_more() -> None:
    with Interrupts() as interrupts:
        with pytest.raises(ValueError, match="broken"), interrupts.waiting():
            raise ValueError("broken")
        press()  # kept, not raised
        with pytest.raises(KeyboardInterrupt), interrupts.waiting():
            pass
