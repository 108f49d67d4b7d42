"""What the modules beside the tests assert is shown in full."""

import pytest

pytest.register_assert_rewrite("tests.treasury.desk", "tests.treasury.examination")
