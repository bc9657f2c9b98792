"""What each operator that torch dispatches does: one row an operator, and no row means unknown.

A row says of which kind an operator is and how many multiply-accumulates it makes. One fused multiply-add
counts as one, padded taps included; elementwise operators, norms, sums and pools count none, as everywhere in
the literature. Where an operator has no row nobody knows what it costs, which is not the same as nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

Kind = Literal["view", "pointwise", "norm", "mixing", "pool", "reduce", "resize", "move", "make"]
Macs = Callable[[tuple[Any, ...], Any], "int | None"]  # of the arguments and the result; None is unknown


@dataclass(frozen=True)
class Operator:
    """One operator: its kind, and its MACs where it makes any.

    Kinds: `view` (no new memory), `pointwise` (each element by itself at inference, so it fuses into what
    made its operand), `norm` (statistics of the input), `mixing` (multiplies and accumulates), `pool`,
    `reduce`, `resize` (up or down), `move` (copies elements), `make` (from nothing).
    """

    kind: Kind
    macs: Macs = lambda args, out: 0


def _first(out: Any) -> Any:
    return out[0] if isinstance(out, tuple | list) else out


def _convolution(args: tuple[Any, ...], out: Any) -> int:
    """Each output element of a convolution (each input element of a transposed one) meets weight[0] once.

    A weight has the shape (O, I / groups, kernel...), a transposed one (I, O / groups, kernel...).
    """
    inputs, weight, transposed = args[0], args[1], bool(args[6]) if len(args) > 6 else False
    return int((inputs if transposed else out).numel() * weight[0].numel())


def _plain_convolution(args: tuple[Any, ...], out: Any) -> int:
    return int(_first(out).numel() * args[1][0].numel())


def _transposed_convolution(args: tuple[Any, ...], out: Any) -> int:
    return int(args[0].numel() * args[1][0].numel())


def _product(at: int) -> Macs:
    """Return the MACs of args[at] @ args[at + 1]."""

    def macs(args: tuple[Any, ...], out: Any) -> int | None:
        left, right = args[at], args[at + 1]
        if left.layout != torch.strided or right.layout != torch.strided:
            return None  # of a sparse matrix only its values multiply
        return int(left.numel() * (right.shape[-1] if right.dim() > 1 else 1))

    return macs


def _linear(args: tuple[Any, ...], out: Any) -> int:
    """x (..., I) to (..., O), however the weights are packed."""
    return int(args[0].numel() * _first(out).shape[-1])


def _attention(args: tuple[Any, ...], out: Any) -> int:
    query, key, value = args[:3]  # (..., L, E), (..., S, E), (..., S, V)
    return int(query.numel() * key.shape[-2] + query.shape[:-1].numel() * key.shape[-2] * value.shape[-1])


def _attention_of_positions(args: tuple[Any, ...], out: Any) -> int | None:
    query, key, value = args[:3]  # (N, L, heads, E), (N, S, heads, E), (N, S, heads, V)
    if query.dim() != 4:
        return None
    positions = key.shape[1]
    return int(query.numel() * positions + query.shape[:-1].numel() * positions * value.shape[-1])


def _bilinear(args: tuple[Any, ...], out: Any) -> int:
    return int(out.numel() * (args[2][0].numel() + args[2].shape[1]))  # x1 W, then by x2


def _by_name(rows: dict[str, Operator], kind: Kind, names: str, macs: Macs | None = None) -> None:
    row = Operator(kind) if macs is None else Operator(kind, macs)
    rows.update(dict.fromkeys(names.split(), row))


_ROWS: dict[str, Operator] = {}
_by_name(_ROWS, "mixing", "convolution _convolution convolution_overrideable", _convolution)
_by_name(
    _ROWS,
    "mixing",
    "conv1d conv2d conv3d cudnn_convolution cudnn_convolution_relu cudnn_convolution_add_relu "
    "mkldnn_convolution miopen_convolution miopen_depthwise_convolution miopen_convolution_relu "
    "miopen_convolution_add_relu _mps_convolution thnn_conv2d _slow_conv2d_forward slow_conv3d "
    "slow_conv3d_forward slow_conv_dilated2d slow_conv_dilated3d _conv_depthwise2d conv_depthwise3d "
    "torchvision::deform_conv2d",
    _plain_convolution,
)
_by_name(
    _ROWS,
    "mixing",
    "conv_transpose1d conv_transpose2d conv_transpose3d cudnn_convolution_transpose "
    "miopen_convolution_transpose _mps_convolution_transpose slow_conv_transpose2d slow_conv_transpose3d",
    _transposed_convolution,
)
_by_name(_ROWS, "mixing", "conv_tbc", lambda args, out: int(out.numel() * args[1][..., 0].numel()))
_by_name(_ROWS, "mixing", "mm bmm mv dot vdot _int_mm _scaled_mm", _product(0))
_by_name(_ROWS, "mixing", "addmm baddbmm addbmm addmv _addmm_activation", _product(1))
_by_name(_ROWS, "mixing", "addr", lambda args, out: int(out.numel()))
_by_name(
    _ROWS,
    "mixing",
    "linear mkldnn_linear _weight_int8pack_mm _weight_int4pack_mm _weight_int4pack_mm_for_cpu",
    _linear,
)
_by_name(_ROWS, "mixing", "bilinear", _bilinear)
_by_name(
    _ROWS,
    "mixing",
    "scaled_dot_product_attention _scaled_dot_product_flash_attention _scaled_dot_product_attention_math "
    "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_efficient_attention "
    "_scaled_dot_product_cudnn_attention _scaled_dot_product_fused_attention_overrideable "
    "_scaled_dot_product_attention_math_for_mps",
    _attention,
)
_by_name(_ROWS, "mixing", "_flash_attention_forward _efficient_attention_forward", _attention_of_positions)
# Elementwise at inference, though torch does not tag them so: statistics are constants by then.
_by_name(
    _ROWS,
    "pointwise",
    "native_batch_norm cudnn_batch_norm miopen_batch_norm _native_batch_norm_legit_no_training "
    "_batch_norm_no_update batch_norm_elemt prelu _prelu_kernel rrelu rrelu_with_noise _to_copy "
    "fake_quantize_per_tensor_affine fake_quantize_per_channel_affine "
    "fake_quantize_per_tensor_affine_cachemask fake_quantize_per_channel_affine_cachemask "
    "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams quantize_per_tensor quantize_per_channel "
    "dequantize hardswish rsub floor_divide log_sigmoid_forward isinf isfinite zero fill bernoulli "
    "normal uniform random exponential native_dropout",
)
_by_name(
    _ROWS,
    "norm",
    "native_layer_norm native_group_norm _native_batch_norm_legit _native_batch_norm_legit_functional "
    "_batch_norm_with_update batch_norm_stats _fused_rms_norm _weight_norm_interface renorm embedding_renorm",
)
_by_name(
    _ROWS,
    "pool",
    "max_pool2d_with_indices max_pool3d_with_indices avg_pool1d avg_pool2d avg_pool3d _adaptive_avg_pool2d "
    "_adaptive_avg_pool3d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d "
    "fractional_max_pool2d fractional_max_pool3d mkldnn_max_pool2d mkldnn_adaptive_avg_pool2d max_pool2d "
    "max_pool1d max_pool3d quantized_max_pool2d torchvision::roi_align torchvision::roi_pool "
    "torchvision::ps_roi_align torchvision::ps_roi_pool",
)
_by_name(
    _ROWS,
    "reduce",
    "sum mean prod amax amin aminmax max min argmax argmin all any var std var_mean std_mean norm "
    "linalg_vector_norm logsumexp _softmax _log_softmax _safe_softmax nansum median nanmedian mode kthvalue "
    "cumsum cumprod cummax cummin logcumsumexp count_nonzero histc bincount equal _local_scalar_dense "
    "topk sort argsort unique_dim _unique2 unique_consecutive nonzero searchsorted bucketize trace "
    "_embedding_bag _embedding_bag_forward_only segment_reduce is_nonzero item torchvision::nms",
)
_by_name(
    _ROWS,
    "resize",
    "upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d "
    "_upsample_nearest_exact2d _upsample_nearest_exact3d upsample_linear1d upsample_bilinear2d "
    "upsample_bicubic2d upsample_trilinear3d _upsample_bilinear2d_aa _upsample_bicubic2d_aa pixel_shuffle "
    "pixel_unshuffle grid_sampler_2d grid_sampler_3d _grid_sampler_2d_cpu_fallback max_unpool2d max_unpool3d "
    "affine_grid_generator",
)
_by_name(
    _ROWS,
    "move",
    "cat clone copy _copy_from stack constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d "
    "replication_pad1d replication_pad2d replication_pad3d roll flip index index_select index_put "
    "_unsafe_index _unsafe_index_put "
    "_index_put_impl index_add index_copy index_fill gather scatter scatter_add scatter_reduce masked_select "
    "masked_scatter take repeat repeat_interleave embedding im2col col2im channel_shuffle "
    "native_channel_shuffle _pack_padded_sequence tril triu rot90 resize set "
    "select_scatter slice_scatter diagonal_scatter as_strided_scatter diag_embed _reshape_copy unfold_copy "
    "view_copy expand_copy permute_copy split_copy split_with_sizes_copy _pad_circular to_mkldnn to_dense "
    "mkldnn_reorder_conv2d_weight _mkldnn_reshape _mkldnn_transpose contiguous _nested_tensor_from_mask put "
    "block_diag one_hot glu",
)
_by_name(
    _ROWS,
    "make",
    "empty empty_like empty_strided empty_permuted zeros zeros_like ones ones_like full full_like new_empty "
    "new_empty_strided new_zeros new_ones new_full arange linspace logspace eye rand rand_like randn "
    "randn_like randint randint_like randperm scalar_tensor tril_indices triu_indices lift_fresh lift "
    "bartlett_window hann_window hamming_window blackman_window kaiser_window complex polar "
    "_efficientzerotensor device sym_size sym_numel sym_stride sym_storage_offset _assert_async "
    "_assert_scalar _functional_assert_scalar _functional_assert_async _assert_tensor_metadata "
    "is_same_size _has_compatible_shallow_copy_type _record_function_enter _record_function_exit "
    "profiler::_record_function_enter profiler::_record_function_enter_new "
    "profiler::_record_function_exit",
)
_VIEW = Operator("view")
_POINTWISE = Operator("pointwise")
# Torch does not say of these that they are views.
_by_name(
    _ROWS,
    "view",
    "_unsafe_view _reshape_alias unsafe_split unsafe_chunk unsafe_split_with_sizes lift_fresh detach alias "
    "resolve_conj resolve_neg _conj _neg_view is_pinned as_strided t transpose squeeze unsqueeze swapaxes",
)


def operator_of(func: Any) -> Operator | None:
    """Return the row of an overload that torch dispatches; None if what it does is not known.

    Views and elementwise operators of torch need no row of their own: torch says so of them.
    """
    space, _, name = func._schema.name.partition("::")
    bare = name.rstrip("_") if not name.startswith("_") else name
    own = space in ("aten", "prim", "prims")
    row = _ROWS.get(bare if own else f"{space}::{name}")
    if row is not None or not own:
        return row
    if torch.Tag.pointwise in func.tags:
        return _POINTWISE
    return _VIEW if func.is_view else None
