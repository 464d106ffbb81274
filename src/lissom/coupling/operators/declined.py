"""Operators that keep what they read, and why; the report of `shrink` says it."""

from lissom.coupling.coupler import Coupler
from lissom.coupling.labels import Axes
from lissom.coupling.ops import Call
from lissom.coupling.records import Operator, Unsupported, operator

REASONS: dict[str, str] = {
    "it reads memory by addresses": """
        as_strided as_strided_scatter empty_strided new_empty_strided sym_is_contiguous
        resize
    """,
    "it fills places in the order of a mask": "masked_scatter",
    "its result depends on where zeros are": "nonzero argwhere",
    "it reads a value as a number": "_local_scalar_dense item",
    "it draws as many random numbers as there are entries": """
        rand randn randperm randint rand_like randn_like randint_like bernoulli multinomial normal
        native_dropout
    """,
    "it numbers the entries of all dims": "take put histc bincount searchsorted",
    "it transforms windows of a whole signal": "stft istft",
    "it observes the range of what it quantises": "fused_moving_avg_obs_fake_quant",
    "it needs whole matrices": """
        cholesky inverse det logdet slogdet svd qr matrix_exp matrix_power pinverse linalg_inv
        linalg_svd linalg_qr linalg_eigh linalg_eig linalg_solve linalg_det linalg_pinv
        linalg_matrix_exp linalg_matrix_power linalg_cholesky triangular_solve cov corrcoef trace
    """,
}
WHY = {name: reason for reason, names in REASONS.items() for name in names.split()}


@operator(*WHY)
class Declined(Operator):
    """What it reads stays."""

    def couple(self, c: Coupler, call: Call) -> Axes:
        raise Unsupported(WHY[call.name])
