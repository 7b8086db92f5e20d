import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from apical.data import Scaling
from apical.errors import DataError


@given(
    x=hnp.arrays(
        st.sampled_from([np.uint8, np.int16, np.float32, np.float64]),
        hnp.array_shapes(min_dims=3, max_dims=4, max_side=6),
        elements=st.integers(0, 100),
    )
)
@settings(max_examples=80, deadline=None)
def test_channels_get_mean_0_and_deviation_1(x: np.ndarray) -> None:
    scaled = Scaling.fit(x, what="x").apply(x, what="x").double().numpy()
    axes = (0, *range(2, x.ndim))
    varies = x.std(axis=axes, dtype=np.float64) > 0
    np.testing.assert_allclose(scaled.mean(axis=axes), 0, atol=1e-5)
    np.testing.assert_allclose(scaled.std(axis=axes), varies.astype(float), atol=1e-5)


def test_columns_of_rows_are_scaled_each_by_itself() -> None:
    x = np.array([[1.0, 1000.0], [3.0, 5000.0]])
    scaling = Scaling.fit(x, what="x")
    assert scaling.mean.tolist() == [2, 3000]
    assert scaling.std.tolist() == [1, 2000]
    assert scaling.apply(np.array([[5.0, 3000.0]]), what="x").tolist() == [[3, 0]]


def test_rows_of_bytes_are_pictures_and_share_one_scale() -> None:
    scaling = Scaling.fit(np.array([[0, 10], [20, 30]], dtype=np.uint8), what="x")
    assert scaling.mean.tolist() == [15]
    assert scaling.std**2 == pytest.approx(125)


def test_sums_over_pixels_are_exact() -> None:
    x = np.full((3000, 1, 40, 40), 255, dtype=np.uint8)
    x[0, 0, 0, 0] = 254
    scaling = Scaling.fit(x, what="x")
    share = 1 / x.size
    assert scaling.mean.item() == pytest.approx(255 - share, rel=1e-15)
    assert scaling.std.item() ** 2 == pytest.approx(share * (1 - share), rel=1e-4)


def test_what_is_constant_is_centred_only() -> None:
    x = np.full((1000, 1), 0.1)
    scaling = Scaling.fit(x, what="x")
    assert scaling.std.tolist() == [1]
    np.testing.assert_allclose(scaling.apply(x + 2, what="x"), 2, rtol=1e-6)


def test_large_offsets_in_double_precision_are_kept() -> None:
    x = np.array([[1e12], [1e12 + 2]])
    assert Scaling.fit(x, what="x").apply(x, what="x").tolist() == [[-1], [1]]


def test_the_callers_array_stays_as_it_is() -> None:
    x = np.arange(8, dtype=np.float32).reshape(4, 2)
    Scaling.fit(x, what="x").apply(x, what="x")
    assert x.tolist() == np.arange(8).reshape(4, 2).tolist()


def test_examples_of_another_shape_are_refused() -> None:
    scaling = Scaling.fit(np.random.default_rng(0).random((5, 3, 4, 4)), what="x")
    scaling.apply(np.zeros((2, 3, 7, 7)), what="x")  # other sizes of the same channels are fine
    for shape in [(2, 1, 4, 4), (2, 2, 4, 4), (2, 48)]:
        with pytest.raises(DataError, match="test part: an example has the shape"):
            scaling.apply(np.zeros(shape), what="test part")


def test_values_beyond_float32_are_refused_with_their_place() -> None:
    scaling = Scaling.fit(np.array([[0.0, 0.0], [1.0, 1.0]]), what="x")
    with pytest.raises(DataError, match=r"test part: the value 1e\+60 at \(1, 0\)"):
        scaling.apply(np.array([[0.0, 0.0], [1e60, 0.0]]), what="test part")
    with pytest.raises(DataError, match=r"training part: values up to 1e\+200 have no finite variance"):
        Scaling.fit(np.array([[0.0], [1e200]]), what="training part")
