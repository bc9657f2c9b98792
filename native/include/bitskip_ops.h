/* Made by `python -m bitskip.program.generate` from src/bitskip/program/schema.py; do not edit. */
#ifndef BITSKIP_OPS_H
#define BITSKIP_OPS_H

#include <stdint.h>

typedef enum { BSK_U8 = 0, BSK_F32 = 1, BSK_I8 = 2, BSK_BITS = 3, BSK_I32 = 4, BSK_NO_DTYPE = -1 } bsk_dtype;

typedef enum { BSK_ACT_NONE = 0, BSK_ACT_RELU = 1, BSK_ACT_PRELU = 2, BSK_ACT_RPRELU = 3, BSK_ACT_RELU6 = 4, BSK_ACT_SIGMOID = 5, BSK_ACT_HARD_SIGMOID = 6, BSK_ACT_HARD_SWISH = 7, BSK_ACT_SILU = 8 } bsk_act_kind;

typedef enum { BSK_EPI_NONE = 0, BSK_EPI_FLOAT = 1, BSK_EPI_THRESHOLD = 2, BSK_EPI_INTEGER = 3 } bsk_epi_kind;

typedef enum { BSK_FILE_QUANTIZE_INPUT = 1, BSK_FILE_CONV2D = 2, BSK_FILE_BINARIZE = 3, BSK_FILE_ADD = 4, BSK_FILE_AFFINE = 5, BSK_FILE_MAX_POOL = 6, BSK_FILE_AVG_POOL = 7, BSK_FILE_GLOBAL_AVG_POOL = 8, BSK_FILE_QUANTIZE = 9, BSK_FILE_DEQUANTIZE = 10, BSK_FILE_CONCAT = 11, BSK_FILE_RESIZE = 12, BSK_FILE_MUL = 13, BSK_FILE_LOOKUP = 14, BSK_FILE_BILINEAR = 15 } bsk_file_op;

typedef enum { BSK_CONST_WEIGHT = 0, BSK_CONST_TABLE = 1, BSK_CONST_SCALE = 2, BSK_CONST_BIAS = 3, BSK_CONST_MULTIPLIER = 4, BSK_CONST_THRESHOLD = 5, BSK_CONST_FLIP = 6, BSK_CONST_PRE_SLOPE = 7, BSK_CONST_PRE_SHIFT_IN = 8, BSK_CONST_PRE_SHIFT_OUT = 9, BSK_CONST_POST_SLOPE = 10, BSK_CONST_POST_SHIFT_IN = 11, BSK_CONST_POST_SHIFT_OUT = 12, BSK_CONST_COUNT = 13 } bsk_constant;

/* Limits */
#define BSK_MAX_OPS 4096
#define BSK_MAX_TENSORS 8192
#define BSK_MAX_OUTPUTS 16
#define BSK_MAX_PICTURES 16
#define BSK_MAX_INPUTS 4
#define BSK_MAX_SIDE 65536
#define BSK_MAX_STRIDE 65535
#define BSK_MAX_DILATION 32768
#define BSK_MAX_CHANNELS 1048576
#define BSK_MAX_KERNEL 255
#define BSK_MAX_POOL_TAPS 16777216
#define BSK_MAX_SHIFT 40
#define BSK_MAX_BIAS_SHIFT 31
#define BSK_MAX_NAME 1000
#define BSK_MAX_BYTES 2147483647

/* The file: bytes of its header and of a record, and where the columns of an op's record lie. */
#define BSK_HEADER_BYTES 64
#define BSK_TENSOR_BYTES 28
#define BSK_RECORD_BYTES 100
#define BSK_NO_TENSOR 65535
#define BSK_WIDE_BIAS 255
#define BSK_COL_KIND 0
#define BSK_COL_EPILOGUE 1
#define BSK_COL_WEIGHT_DTYPE 2
#define BSK_COL_IN_PLACE 3
#define BSK_COL_COUNT_PADDING 4
#define BSK_COL_PRE 5
#define BSK_COL_POST 6
#define BSK_COL_PAD_VALUE 7
#define BSK_COL_SHIFT 8
#define BSK_COL_BIAS_SHIFT 9
#define BSK_COL_PADDING 10
#define BSK_COL_INPUTS 12
#define BSK_COL_OUTPUTS 20
#define BSK_COL_KERNEL 24
#define BSK_COL_STEPS 32
#define BSK_COL_GROUPS 40
#define BSK_COL_RESIDUAL_MULTIPLIER 44
#define BSK_COL_CONSTANTS 48 /* offsets, in the order of bsk_constant */

/* Activations: X(code, has slope, has shift_in and shift_out) */
#define BSK_ACTIVATIONS(X) \
  X(0, 0, 0) \
  X(1, 0, 0) \
  X(2, 1, 0) \
  X(3, 1, 1) \
  X(4, 0, 0) \
  X(5, 0, 0) \
  X(6, 0, 0) \
  X(7, 0, 0) \
  X(8, 0, 0)

/* Ops: X(code, shape rule, fewest inputs, most inputs, residual (0 none, 1 may, 2 must), keeps the
 * scale, has a window, is a pool, may be in place, may count padding, has a table a channel) */
#define BSK_ROWS(X) \
  X(1, 0, 1, 1, 0, 0, 0, 0, 0, 0, 1) \
  X(2, 1, 1, 1, 1, 0, 1, 0, 1, 0, 0) \
  X(3, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0) \
  X(4, 0, 1, 1, 2, 0, 0, 0, 1, 0, 0) \
  X(5, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0) \
  X(6, 2, 1, 1, 0, 1, 1, 1, 0, 0, 0) \
  X(7, 2, 1, 1, 0, 0, 1, 1, 0, 1, 0) \
  X(8, 3, 1, 1, 0, 0, 0, 0, 0, 0, 0) \
  X(9, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0) \
  X(10, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0) \
  X(11, 4, 2, 4, 0, 1, 0, 0, 0, 0, 0) \
  X(12, 5, 1, 1, 0, 1, 0, 0, 0, 0, 0) \
  X(13, 6, 2, 2, 0, 0, 0, 0, 0, 0, 0) \
  X(14, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0) \
  X(15, 5, 1, 1, 0, 0, 0, 0, 0, 0, 0)

/* Forms: X(op, dtype read, weights, epilogue, dtypes written, constants needed, constants taken,
 * may have groups); dtypes written and constants are masks of 1 << code. */
#define BSK_FORMS(X) \
  X(1, 0, 0, 0, 2, 12, 12, 0) \
  X(1, 0, 0, 0, 4, 2, 2, 0) \
  X(2, 1, 1, 1, 14, 1, 8109, 1) \
  X(2, 1, 3, 1, 14, 1, 8109, 0) \
  X(2, 2, 2, 1, 14, 1, 8109, 1) \
  X(2, 2, 2, 2, 8, 97, 97, 1) \
  X(2, 2, 2, 3, 4, 25, 25, 1) \
  X(2, 2, 3, 1, 14, 1, 8109, 0) \
  X(2, 2, 3, 2, 8, 97, 97, 0) \
  X(2, 2, 3, 3, 4, 25, 25, 0) \
  X(2, 3, 3, 1, 14, 1, 8109, 0) \
  X(2, 3, 3, 2, 8, 97, 97, 0) \
  X(2, 3, 3, 3, 4, 25, 25, 0) \
  X(2, 4, 2, 1, 14, 1, 8109, 0) \
  X(3, 1, 0, 1, 8, 0, 32, 0) \
  X(3, 2, 0, 2, 8, 96, 96, 0) \
  X(4, 1, 0, 1, 14, 0, 7200, 0) \
  X(4, 2, 0, 3, 4, 24, 24, 0) \
  X(5, 1, 0, 1, 14, 0, 8108, 0) \
  X(6, 1, 0, 0, 2, 0, 0, 0) \
  X(6, 2, 0, 0, 4, 0, 0, 0) \
  X(7, 1, 0, 0, 2, 0, 0, 0) \
  X(8, 1, 0, 0, 2, 0, 0, 0) \
  X(8, 2, 0, 0, 16, 0, 0, 0) \
  X(9, 1, 0, 0, 4, 0, 0, 0) \
  X(10, 2, 0, 0, 2, 0, 0, 0) \
  X(11, 1, 0, 0, 2, 0, 0, 0) \
  X(11, 2, 0, 0, 4, 0, 0, 0) \
  X(12, 1, 0, 0, 2, 0, 0, 0) \
  X(12, 2, 0, 0, 4, 0, 0, 0) \
  X(13, 1, 0, 1, 14, 0, 8108, 0) \
  X(13, 2, 0, 3, 4, 24, 24, 0) \
  X(14, 2, 0, 0, 4, 2, 2, 0) \
  X(15, 1, 0, 0, 2, 0, 0, 0)

/* Shape rules: does the output's height or width follow, its channels; do further inputs fit? */
static inline int64_t bsk_side_follows(int code, int64_t size, int64_t result, int64_t reach, int64_t stride, int64_t padding) {
  (void)size, (void)result, (void)reach, (void)stride, (void)padding;
  switch (code) {
    case 0: return result == size;
    case 1: return (result - 1) * stride <= size + 2 * padding - reach && size + 2 * padding - reach < result * stride;
    case 2: return ((result - 1) * stride <= size + 2 * padding - reach && size + 2 * padding - reach < result * stride) || ((result - 2) * stride < size + 2 * padding - reach && size + 2 * padding - reach <= (result - 1) * stride && (result - 1) * stride < size + padding) || ((result - 1) * stride < size + 2 * padding - reach && size + 2 * padding - reach <= result * stride && size + padding <= result * stride);
    case 3: return result == 1;
    case 4: return result == size;
    case 5: return result >= 1;
    case 6: return result == size;
    default: return 0;
  }
}

static inline int64_t bsk_channels_follow(int code, int64_t channels, int64_t total, int64_t result, int64_t pixels, int64_t taps) {
  (void)channels, (void)total, (void)result, (void)pixels, (void)taps;
  switch (code) {
    case 0: return result == channels;
    case 1: return result >= 1;
    case 2: return result == channels;
    case 3: return result == channels;
    case 4: return result == total;
    case 5: return result == channels;
    case 6: return result == channels;
    default: return 0;
  }
}

static inline int64_t bsk_other_side_fits(int code, int64_t other, int64_t size) {
  (void)other, (void)size;
  switch (code) {
    case 0: return other == size;
    case 1: return other == size;
    case 2: return other == size;
    case 3: return other == size;
    case 4: return other == size;
    case 5: return other == size;
    case 6: return other == 1;
    default: return 0;
  }
}

static inline int64_t bsk_other_channels_fit(int code, int64_t other, int64_t channels) {
  (void)other, (void)channels;
  switch (code) {
    case 0: return other == channels;
    case 1: return other == channels;
    case 2: return other == channels;
    case 3: return other == channels;
    case 4: return other >= 1;
    case 5: return other == channels;
    case 6: return other == channels;
    default: return 0;
  }
}

/* What |acc| of i8 inputs cannot exceed; `pixels` are the first input's. Not of convolutions. */
static inline int64_t bsk_largest_acc(int code, int64_t pixels) {
  (void)pixels;
  switch (code) {
    case 1: return 255;
    case 2: return 255;
    case 3: return 255;
    case 4: return 255;
    case 5: return 255;
    case 6: return 255;
    case 7: return 255;
    case 8: return 255 * pixels;
    case 9: return 255;
    case 10: return 255;
    case 11: return 255;
    case 12: return 255;
    case 13: return 255 * 255;
    case 14: return 255;
    case 15: return 255;
    default: return 0;
  }
}

#endif
