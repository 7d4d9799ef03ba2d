"""What records weigh in memory, so that few bytes cannot become much."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

VALUE = 32  # bytes that a value counts beside its text
LIGHT = 4 << 20  # bytes of JSON whose values take no notable memory, whatever they are
HEAVY = 256 << 20  # bytes of memory that the values of one record of JSON may take


def weight_of_batch(batch: pa.RecordBatch) -> int:
    """Return about how many bytes of memory the rows of an Arrow batch take as Python objects."""
    return VALUE * len(batch) + sum(map(weight_of_array, batch.columns))


def weight_of_array(array: pa.Array) -> int:
    """Return about how many bytes of memory the values of an array take as Python objects.

    Values that runs or views repeat count once.
    """
    own = VALUE * len(array)
    if isinstance(array, pa.DictionaryArray):
        return own + _weight_of_repeated(array.dictionary, array.indices)
    if isinstance(array, pa.RunEndEncodedArray):
        return own + weight_of_array(array.values)
    if isinstance(array, pa.ExtensionArray):
        return own + weight_of_array(array.storage)
    if isinstance(array, pa.StructArray):
        return own + sum(map(weight_of_array, array.flatten()))
    if isinstance(array, pa.MapArray):
        first, last = (array.offsets[at].as_py() for at in (0, -1))
        return own + weight_of_array(array.values.slice(first, last - first))
    if isinstance(array, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
        return own + weight_of_array(array.flatten())
    return own + int(array.nbytes)


def _weight_of_repeated(values: pa.Array, indices: pa.Array) -> int:
    if not len(values):
        return 0
    try:
        return pc.sum(pc.binary_length(values).take(indices)).as_py() or 0
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):  # not texts
        return weight_of_array(values) // len(values) * len(indices)


def too_heavy(content: bytes) -> bool:
    """Return whether JSON holds values that take far more memory than text of its length."""
    if len(content) <= LIGHT or _weight_of_signs(np.frombuffer(content, np.uint8)) <= HEAVY:
        return False
    signs = np.frombuffer(content.replace(rb"\\", b"").replace(rb"\"", b""), np.uint8)
    in_text = np.cumsum(signs == ord('"'), dtype=np.uint8) & 1  # parity, which an overflow keeps
    return _weight_of_signs(signs[in_text == 0]) > HEAVY


def _weight_of_signs(signs: NDArray[np.uint8]) -> int:
    """Return about how many bytes the values take: an object 240, a list 90, another value 40."""
    return sum(int(np.count_nonzero(signs == ord(sign))) * size for sign, size in (("{", 240), ("[", 90), (",", 40)))
