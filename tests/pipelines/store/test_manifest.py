"""References and manifests."""

import pytest

from pipelines.store.manifest import Ref


@pytest.mark.parametrize("field", ["kind", "name"])
def test_reference_cannot_leave_the_store(field):
    with pytest.raises(ValueError, match=field):
        Ref(**{"kind": "things", "name": "x", "fingerprint": "ab" * 32, "digest": "cd" * 32, field: ".."})
