"""Lets the checks of the conformance suite's harness say what they found."""

import pytest

pytest.register_assert_rewrite("connectors.conformance")
