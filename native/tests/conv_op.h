/* What the programs here build their operations from. */
#ifndef BSK_CONV_OP_H
#define BSK_CONV_OP_H
#include <stdlib.h>
#include <time.h>

#include "bitskip.h"

static const bsk_tensor absent = {BSK_NO_DTYPE, 0, 0, 0, 0, BSK_AT_NONE};

/* A convolution of a square kernel, padded by half of it, with its epilogue and outputs still to be given. */
static inline bsk_op conv_op(bsk_tensor in, int kernel, int stride, int weight_dtype, const void *weights) {
  const bsk_op op = {.kind = BSK_OP_CONV,
                     .in = in,
                     .residual = absent,
                     .more = {absent, absent},
                     .out_f32 = absent,
                     .out_bits = absent,
                     .out_i8 = absent,
                     .groups = 1,
                     .kh = kernel,
                     .kw = kernel,
                     .sh = stride,
                     .sw = stride,
                     .ph = kernel / 2,
                     .pw = kernel / 2,
                     .weight_dtype = weight_dtype,
                     .weights = weights};
  return op;
}

static inline void *aligned(size_t bytes) { return aligned_alloc(64, (bytes + 63) / 64 * 64); }
#endif
