/* From an opened file to operations: each record of the table as a bsk_op whose constants lie in the file. */
#include "bitskip.h"
#include "bytes.h"

static float scale_of(const bsk_program *p, uint32_t number) { return f32(p->tensors + (size_t)number * BSK_TENSOR_BYTES + 24); }

static int64_t input_bytes(const bsk_program *p, uint32_t count) { /* of the first `count` inputs, which lie one after the other */
  int64_t bytes = 0;
  for (const uint8_t *at = p->tensors; count--; at += BSK_TENSOR_BYTES) bytes += (int64_t)u32(at + 8) * u32(at + 12) * u32(at + 16);
  return bytes;
}

bsk_tensor bsk_program_tensor(const bsk_program *p, uint32_t number) {
  const uint8_t *at = p->tensors + (size_t)number * BSK_TENSOR_BYTES;
  const bsk_tensor t = {at[0],
                        (int32_t)u32(at + 8),
                        (int32_t)u32(at + 12),
                        (int32_t)u32(at + 16),
                        i8(at + 1),
                        number < p->n_inputs ? BSK_AT_INPUT - input_bytes(p, number) : (int64_t)u32(at + 20)};
  return t;
}

size_t bsk_program_image_bytes(const bsk_program *p) { return (size_t)input_bytes(p, p->n_inputs); }

bsk_tensor bsk_program_output(const bsk_program *p, uint32_t output) { return bsk_program_tensor(p, u32(p->outputs + 4 * (size_t)output)); }

const char *bsk_program_name(const bsk_program *p, uint32_t line, size_t *length) {
  const char *at = p->names, *end = p->names + p->names_bytes;
  for (; at < end; ++at) {
    const char *stop = (const char *)memchr(at, '\n', (size_t)(end - at));
    *length = (size_t)(stop - at);
    if (line-- == 0) return at;
    at = stop;
  }
  *length = 0;
  return "";
}

static const void *constant(const bsk_program *p, const uint8_t *record, int which) {
  const uint32_t at = u32(record + BSK_COL_CONSTANTS + 4 * which);
  return at ? p->bytes + at : NULL;
}

static void activation(const bsk_program *p, const uint8_t *record, int slope, bsk_act *act) {
  act->slope = (const float *)constant(p, record, slope);
  act->shift_in = (const float *)constant(p, record, slope + 1);
  act->shift_out = (const float *)constant(p, record, slope + 2);
}

void bsk_program_op(const bsk_program *p, uint32_t number, bsk_op *op) {
  const uint8_t *r = p->ops + (size_t)number * BSK_RECORD_BYTES;
  const bsk_tensor none = {BSK_NO_DTYPE, 0, 0, 0, 0, BSK_AT_NONE};
  memset(op, 0, sizeof *op);
  op->residual = op->more[0] = op->more[1] = op->out_f32 = op->out_bits = op->out_i8 = none;
  op->epi.inv_scale = 1.0f;
  bsk_tensor *const inputs[BSK_MAX_INPUTS] = {&op->in, &op->residual, &op->more[0], &op->more[1]};
  for (int i = 0; i < BSK_MAX_INPUTS; ++i) {
    const uint32_t tensor = u16(r + BSK_COL_INPUTS + 2 * i);
    if (tensor != BSK_NO_TENSOR) *inputs[i] = bsk_program_tensor(p, tensor);
  }
  for (int i = 0; i < 2; ++i) {
    const uint32_t tensor = u16(r + BSK_COL_OUTPUTS + 2 * i);
    if (tensor == BSK_NO_TENSOR) continue;
    const bsk_tensor t = bsk_program_tensor(p, tensor);
    *(t.dtype == BSK_F32 ? &op->out_f32 : t.dtype == BSK_BITS ? &op->out_bits : &op->out_i8) = t;
    if (t.dtype == BSK_I8) op->epi.inv_scale = 1.0f / scale_of(p, tensor);
  }
  static const int32_t weight_dtypes[] = {BSK_NO_DTYPE, BSK_F32, BSK_I8, BSK_BITS};
  op->kh = (int32_t)u32(r + BSK_COL_KERNEL), op->kw = (int32_t)u32(r + BSK_COL_KERNEL + 4);
  op->sh = (int32_t)u16(r + BSK_COL_STEPS), op->sw = (int32_t)u16(r + BSK_COL_STEPS + 4);
  op->gap_h = (int32_t)u16(r + BSK_COL_STEPS + 2), op->gap_w = (int32_t)u16(r + BSK_COL_STEPS + 6);
  op->ph = r[BSK_COL_PADDING], op->pw = r[BSK_COL_PADDING + 1];
  op->groups = (int32_t)u32(r + BSK_COL_GROUPS);
  op->pad_value = i8(r + BSK_COL_PAD_VALUE);
  op->count_padding = r[BSK_COL_COUNT_PADDING];
  op->weight_dtype = weight_dtypes[r[BSK_COL_WEIGHT_DTYPE]];
  op->weights = constant(p, r, BSK_CONST_WEIGHT);
  op->weight_stream = op->weight_dtype == BSK_BITS;
  op->table = (const uint8_t *)constant(p, r, BSK_CONST_TABLE);
  op->in_scale = scale_of(p, u16(r + BSK_COL_INPUTS));
  op->pool_scale = 1.0f / ((float)op->in.h * (float)op->in.w);
  bsk_epilogue *e = &op->epi;
  e->kind = r[BSK_COL_EPILOGUE];
  e->scale = (const float *)constant(p, r, BSK_CONST_SCALE);
  e->flip = (const uint8_t *)constant(p, r, BSK_CONST_FLIP);
  e->m = (const int32_t *)constant(p, r, BSK_CONST_MULTIPLIER);
  if (e->kind == BSK_EPI_THRESHOLD)
    e->t = (const int32_t *)constant(p, r, BSK_CONST_THRESHOLD);
  else
    e->threshold = (const float *)constant(p, r, BSK_CONST_THRESHOLD);
  const void *bias = constant(p, r, BSK_CONST_BIAS);
  if (e->kind != BSK_EPI_INTEGER)
    e->bias = (const float *)bias;
  else if (r[BSK_COL_BIAS_SHIFT] == BSK_WIDE_BIAS)
    e->b = (const int64_t *)bias;
  else
    e->b32 = (const int32_t *)bias, e->b_shift = r[BSK_COL_BIAS_SHIFT];
  e->shift = r[BSK_COL_SHIFT];
  e->residual_m = i32(r + BSK_COL_RESIDUAL_MULTIPLIER);
  e->pre.kind = r[BSK_COL_PRE];
  e->post.kind = r[BSK_COL_POST];
  activation(p, r, BSK_CONST_PRE_SLOPE, &e->pre);
  activation(p, r, BSK_CONST_POST_SLOPE, &e->post);
  const int real = op->in.dtype == BSK_F32;
  switch (r[BSK_COL_KIND]) {
    case BSK_FILE_QUANTIZE_INPUT:
      op->kind = BSK_OP_QUANTIZE_INPUT;
      break;
    case BSK_FILE_CONV2D:
      op->kind = op->in.dtype == BSK_I32 ? BSK_OP_FC_I32 : BSK_OP_CONV;
      break;
    case BSK_FILE_QUANTIZE:
      e->kind = BSK_EPI_FLOAT;
      op->kind = BSK_OP_ELEMENTWISE;
      break;
    case BSK_FILE_BINARIZE:
    case BSK_FILE_ADD:
    case BSK_FILE_AFFINE:
      op->kind = real ? BSK_OP_ELEMENTWISE : BSK_OP_INTEGER;
      break;
    case BSK_FILE_DEQUANTIZE:
      op->kind = BSK_OP_DEQUANTIZE;
      break;
    case BSK_FILE_MAX_POOL:
      op->kind = BSK_OP_MAX_POOL;
      break;
    case BSK_FILE_AVG_POOL:
      op->kind = BSK_OP_AVG_POOL;
      break;
    case BSK_FILE_GLOBAL_AVG_POOL:
      op->kind = BSK_OP_GLOBAL_POOL;
      break;
    default:
      op->kind = BSK_OP_SIMPLE + r[BSK_COL_KIND];
      break;
  }
}
