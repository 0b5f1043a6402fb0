"""The search for garbage leaves out what loading thousands of tests makes, which is most of what there is."""

import gc

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Load the tests without that search, which takes a quarter less time, and spare what is there by then."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_unconfigure():
    """Let all go in the end; libraries complain of what is left."""
    gc.unfreeze()
