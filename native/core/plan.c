/* From operations to an engine: check everything once, choose kernels, repack constants into the caller's block.
 *
 * The same code runs twice. With no memory it only counts bytes (bsk_engine_bytes); with memory it fills them.
 */
#include "plan.h"

#include <math.h>

#define MAX_BATCH 8                    /* pictures side by side: with more, little is left to share */
#define BATCH_BYTES (16 * 1024 * 1024) /* of their arenas */

static _Thread_local const char *last_error = "";
const char *bsk_last_error(void) { return last_error; }

bsk_status bsk_fail(bsk_status status, const char *message) {
  last_error = message;
  return status;
}

void *bsk_take(bsk_block *b, size_t bytes) {
  void *piece = b->memory ? b->memory + b->used : NULL;
  b->used += bsk_round_up(bytes, BSK_ALIGN);
  return piece;
}

/* ---- Checks --------------------------------------------------------------------------------------------------- */

static int64_t tensor_bytes(const bsk_tensor *t) {
  const int64_t pixels = (int64_t)t->h * t->w;
  switch (t->dtype) {
    case BSK_U8:
    case BSK_I8:
      return pixels * t->c;
    case BSK_F32:
    case BSK_I32:
      return pixels * t->c * 4;
    case BSK_BITS:
      return pixels * (int64_t)bsk_words64(t->c) * 8;
    default:
      return -1;
  }
}

static bsk_status check_tensor(const bsk_tensor *t, size_t arena_bytes) {
  if (t->offset == BSK_AT_NONE) return BSK_OK;
  CHECK(t->h > 0 && t->w > 0 && t->c > 0, "a tensor has a side of 0 or less");
  CHECK(t->h <= BSK_MAX_SIDE && t->w <= BSK_MAX_SIDE && t->c <= BSK_MAX_CHANNELS, "a tensor has a side above 65536 or more than 2^20 channels");
  const int64_t bytes = tensor_bytes(t);
  CHECK(bytes > 0 && bytes < BSK_MAX_TENSOR, "a tensor has an unknown dtype or is too large");
  CHECK(t->dtype != BSK_I8 || (t->zero_point >= -128 && t->zero_point <= 127), "a zero point is not an int8");
  if (t->offset <= BSK_AT_INPUT) {
    CHECK(t->dtype == BSK_U8, "the program's inputs are u8");
    CHECK(t->offset > BSK_AT_INPUT - BSK_MAX_TENSOR, "an input lies too far from the first");
    return BSK_OK;
  }
  CHECK(t->dtype != BSK_U8, "only the program's inputs are u8");
  CHECK(t->offset >= 0 && (uint64_t)t->offset <= arena_bytes && (uint64_t)bytes <= arena_bytes - (uint64_t)t->offset, "a tensor lies outside the arena");
  CHECK(t->offset % (t->dtype == BSK_BITS ? 8 : t->dtype == BSK_I8 ? 1 : 4) == 0, "a tensor's offset is not aligned to its elements");
  return BSK_OK;
}

/* The shape every output has; all present outputs must agree. */
static bsk_status check_outputs(const bsk_op *op, const bsk_tensor **shape) {
  const bsk_tensor *all[3] = {&op->out_f32, &op->out_bits, &op->out_i8};
  *shape = NULL;
  for (int i = 0; i < 3; ++i) {
    if (!present(all[i])) continue;
    if (!*shape) *shape = all[i];
    CHECK(same_shape(*shape, all[i]), "the outputs of an operation differ in shape");
    CHECK(all[i]->offset >= 0, "an output must lie in the arena");
  }
  CHECK(*shape != NULL, "an operation has no output");
  CHECK(!present(&op->out_f32) || op->out_f32.dtype == BSK_F32, "an f32 output has another dtype");
  CHECK(!present(&op->out_bits) || op->out_bits.dtype == BSK_BITS, "a bits output has another dtype");
  CHECK(!present(&op->out_i8) || op->out_i8.dtype == BSK_I8 || (op->out_i8.dtype == BSK_I32 && op->kind == BSK_OP_GLOBAL_POOL),
        "an i8 output has another dtype");
  return BSK_OK;
}

/* ---- Epilogues -------------------------------------------------------------------------------------------------- */

static const float *take_floats(bsk_block *b, const float *from, int32_t n, int32_t padded, float fill) {
  float *to = (float *)bsk_take(b, (size_t)padded * sizeof(float));
  if (to)
    for (int32_t i = 0; i < padded; ++i) to[i] = from && i < n ? from[i] : fill;
  return to;
}

static bsk_status plan_activation(bsk_block *b, const bsk_act *act, int32_t n, int32_t padded, const float **slope, const float **in, const float **out) {
  const int rprelu = act->kind == BSK_ACT_RPRELU, slopes = rprelu || act->kind == BSK_ACT_PRELU;
  CHECK(act->kind >= BSK_ACT_NONE && act->kind <= BSK_ACT_SILU, "unknown activation");
  CHECK(!slopes || act->slope, "prelu without slopes");
  CHECK(!rprelu || (act->shift_in && act->shift_out), "rprelu without shifts");
  if (slopes) *slope = take_floats(b, act->slope, n, padded, 1.0f);
  if (act->kind == BSK_ACT_RPRELU) {
    *in = take_floats(b, act->shift_in, n, padded, 0.0f);
    *out = take_floats(b, act->shift_out, n, padded, 0.0f);
  }
  return BSK_OK;
}

/* `largest_acc` bounds the absolute value of an integer accumulator; 0: it is a float. */
static bsk_status plan_epilogue(bsk_block *b, const bsk_op *op, const bsk_tensor *shape, int64_t largest_acc, bsk_plan_op *p) {
  const bsk_epilogue *e = &op->epi;
  const int32_t n = shape->c, padded = bsk_groups(n) * BSK_GROUP;
  bsk_status status;
  if (present(&op->residual)) {
    CHECK(op->residual.offset >= 0 && same_shape(&op->residual, shape), "a residual differs in shape from the output");
    CHECK(op->residual.dtype == (e->kind == BSK_EPI_INTEGER ? BSK_I8 : BSK_F32), "a residual has the wrong dtype for its epilogue");
  }
  switch (e->kind) {
    case BSK_EPI_FLOAT: {
      bsk_epi_float *f = &p->epi_float;
      f->scale = take_floats(b, e->scale, n, padded, 1.0f);
      f->bias = take_floats(b, e->bias, n, padded, -0.0f); /* the neutral element of float addition */
      f->threshold = take_floats(b, e->threshold, n, padded, 0.0f);
      f->pre = e->pre.kind;
      f->post = e->post.kind;
      if ((status = plan_activation(b, &e->pre, n, padded, &f->pre_slope, &f->pre_in, &f->pre_out))) return status;
      if ((status = plan_activation(b, &e->post, n, padded, &f->post_slope, &f->post_in, &f->post_out))) return status;
      f->inv_scale = e->inv_scale;
      f->out_zero_point = op->out_i8.zero_point;
      CHECK(!present(&op->out_i8) || e->inv_scale > 0.0f, "an i8 output needs a positive inverse scale");
      return BSK_OK;
    }
    case BSK_EPI_THRESHOLD: {
      CHECK(largest_acc, "the threshold epilogue needs an integer accumulator");
      CHECK(!present(&op->out_f32) && !present(&op->out_i8) && !present(&op->residual), "the threshold epilogue has bits as its only output and no residual");
      CHECK(e->t, "the threshold epilogue without thresholds");
      int32_t *t = (int32_t *)bsk_take(b, (size_t)padded * sizeof(int32_t));
      uint32_t *keep = (uint32_t *)bsk_take(b, (size_t)padded / BSK_GROUP * sizeof(uint32_t));
      p->epi_threshold.t = t;
      p->epi_threshold.keep = keep;
      if (t) {
        memset(t, 0, (size_t)padded * sizeof(int32_t));
        memcpy(t, e->t, (size_t)n * sizeof(int32_t));
        for (int32_t g = 0; g < padded / BSK_GROUP; ++g) {
          keep[g] = 0;
          for (int32_t i = 0; i < BSK_GROUP && g * BSK_GROUP + i < n; ++i)
            keep[g] |= (uint32_t)!(e->flip && (e->flip[(g * BSK_GROUP + i) / 8] >> (i % 8) & 1)) << i;
        }
      }
      return BSK_OK;
    }
    case BSK_EPI_INTEGER: {
      CHECK(largest_acc, "the integer epilogue needs an integer accumulator");
      CHECK(present(&op->out_i8) && !present(&op->out_f32) && !present(&op->out_bits), "the integer epilogue has i8 as its only output");
      CHECK(e->m && (e->b || e->b32) && e->b_shift >= 0 && e->b_shift <= BSK_MAX_BIAS_SHIFT, "the integer epilogue without multipliers");
      CHECK(e->shift >= 1 && e->shift <= 40, "the shift of an integer epilogue is not in 1..40");
      CHECK(e->pre.kind <= BSK_ACT_RELU && e->post.kind <= BSK_ACT_RELU, "the integer epilogue knows only relu");
      bsk_epi_integer *f = &p->epi_integer;
      int32_t *m = (int32_t *)bsk_take(b, (size_t)padded * sizeof(int32_t));
      int64_t *bias = (int64_t *)bsk_take(b, (size_t)padded * sizeof(int64_t));
      f->m = m;
      f->b = bias;
      f->pre_relu = e->pre.kind == BSK_ACT_RELU;
      f->post_relu = e->post.kind == BSK_ACT_RELU;
      f->shift = e->shift;
      f->residual_m = present(&op->residual) ? e->residual_m : 0;
      f->c1 = -(int64_t)f->residual_m * (present(&op->residual) ? op->residual.zero_point : 0);
      f->c2 = ((int64_t)1 << (e->shift - 1)) + (int64_t)op->out_i8.zero_point * ((int64_t)1 << e->shift);
      if (m) {
        memset(m, 0, (size_t)padded * sizeof(int32_t));
        memset(bias, 0, (size_t)padded * sizeof(int64_t));
        memcpy(m, e->m, (size_t)n * sizeof(int32_t));
        for (int32_t i = 0; i < n; ++i) bias[i] = e->b ? e->b[i] : e->b32[i] * ((int64_t)1 << e->b_shift);
        double most = 0.0; /* of |t|, generously */
        for (int32_t i = 0; i < n; ++i) {
          const double t = (double)largest_acc * fabs((double)m[i]) + fabs((double)bias[i]);
          if (t > most) most = t;
        }
        most += 383.0 * fabs((double)f->residual_m) + fabs((double)f->c2);
        f->narrow = f->shift <= 32 && most * 1.001 < ldexp(1.0, 31 + f->shift);
      }
      return BSK_OK;
    }
    default:
      return bsk_fail(BSK_ERR_ARGUMENT, "unknown epilogue");
  }
}

/* ---- The other operations --------------------------------------------------------------------------------------- */

static bsk_status plan_pool(const bsk_op *op, const bsk_tensor *shape) {
  const bsk_tensor *in = &op->in;
  CHECK(op->kh >= 1 && op->kw >= 1 && op->sh >= 1 && op->sw >= 1 && op->sh <= BSK_MAX_SIDE && op->sw <= BSK_MAX_SIDE, "a pool's window or stride is below 1");
  CHECK(op->ph >= 0 && op->pw >= 0 && op->ph < op->kh && op->pw < op->kw && op->kh <= BSK_MAX_SIDE && op->kw <= BSK_MAX_SIDE,
        "a pool's padding is not below its window");
  const int32_t low_h = in->h + 2 * op->ph - op->kh, low_w = in->w + 2 * op->pw - op->kw;
  const int32_t most_h = low_h < 0 ? 1 : (low_h + op->sh - 1) / op->sh + 1, most_w = low_w < 0 ? 1 : (low_w + op->sw - 1) / op->sw + 1;
  CHECK(shape->c == in->c && shape->h <= most_h && shape->w <= most_w, "a pool's output has the wrong shape");
  /* A window that reads nothing but padding would have no maximum. */
  CHECK((shape->h - 1) * op->sh - op->ph < in->h && (shape->w - 1) * op->sw - op->pw < in->w, "a pool's window lies in the padding");
  return BSK_OK;
}

static bsk_status plan_fc(bsk_block *b, const bsk_op *op, const bsk_tensor *shape, bsk_plan_op *p) {
  const int32_t n = op->in.c, o = shape->c;
  CHECK(op->in.dtype == BSK_I32 && op->in.h == 1 && op->in.w == 1 && shape->h == 1 && shape->w == 1, "an fc on i32 takes and gives a vector");
  CHECK(op->weights && (op->weight_dtype == BSK_I8 || op->weight_dtype == BSK_BITS), "an fc on i32 has i8 or w1 weights");
  CHECK(op->epi.kind == BSK_EPI_FLOAT, "an fc on i32 has a float epilogue");
  int8_t *weights = (int8_t *)bsk_take(b, (size_t)n * (size_t)o);
  p->fc_weights = weights;
  if (weights) {
    const bsk_weights_view v = bsk_view_of(op, o);
    for (int32_t i = 0; i < o; ++i)
      for (int32_t j = 0; j < n; ++j)
        weights[(size_t)i * (size_t)n + (size_t)j] =
            op->weight_dtype == BSK_BITS ? (int8_t)(1 - 2 * bsk_weight_negative(&v, i, 0, 0, j)) : ((const int8_t *)op->weights)[bsk_weight_at(&v, i, 0, 0, j)];
  }
  return BSK_OK;
}

static bsk_status plan_op(bsk_block *b, const bsk_op *op, size_t arena_bytes, bsk_isa isa, bsk_plan_op *p, bsk_scratch *scratch) {
  const bsk_tensor *shape;
  const bsk_tensor *all[5] = {&op->in, &op->residual, &op->out_f32, &op->out_bits, &op->out_i8};
  bsk_status status;
  for (int i = 0; i < 5; ++i)
    if ((status = check_tensor(all[i], arena_bytes))) return status;
  CHECK(present(&op->in), "an operation has no input");
  CHECK((op->in.offset <= BSK_AT_INPUT) == (op->kind == BSK_OP_QUANTIZE_INPUT), "only quantize_input reads the program's inputs");
  if ((status = check_outputs(op, &shape))) return status;
  memset(p, 0, sizeof *p);
  p->op = *op;
  p->epi = bsk_find_epilogue(isa, op->epi.pre.kind > op->epi.post.kind ? op->epi.pre.kind : op->epi.post.kind);
  p->plain = bsk_find_plain(isa);
  p->rows = shape->h;
  const int elementwise = op->kind == BSK_OP_QUANTIZE_INPUT || op->kind == BSK_OP_ELEMENTWISE || op->kind == BSK_OP_INTEGER || op->kind == BSK_OP_DEQUANTIZE;
  CHECK(!elementwise || same_shape(&op->in, shape), "an elementwise operation changes the shape");
  const int integer_acc = op->in.dtype != BSK_F32;
  p->name = p->epi->name;
  switch (op->kind) {
    case BSK_OP_CONV:
      if ((status = bsk_plan_conv(b, op, isa, shape, p, scratch))) return status;
      return plan_epilogue(b, op, shape, integer_acc ? bsk_largest_sum(op) : 0, p);
    case BSK_OP_ELEMENTWISE:
      CHECK(op->in.dtype == BSK_F32 && op->epi.kind == BSK_EPI_FLOAT, "an elementwise operation takes f32 and a float epilogue");
      return plan_epilogue(b, op, shape, 0, p);
    case BSK_OP_INTEGER:
      CHECK(op->in.dtype == BSK_I8 && op->epi.kind != BSK_EPI_FLOAT, "an integer operation takes i8 and an integer epilogue");
      return plan_epilogue(b, op, shape, 255, p);
    case BSK_OP_QUANTIZE_INPUT: {
      const int to_i8 = present(&op->out_i8);
      CHECK(!present(&op->out_bits) && to_i8 != present(&op->out_f32), "quantize_input gives f32 or i8");
      p->name = p->plain->name;
      if (to_i8) {
        CHECK(op->table, "quantize_input to i8 without its table");
        uint8_t *table = (uint8_t *)bsk_take(b, (size_t)op->in.c * 256);
        if (table) memcpy(table, op->table, (size_t)op->in.c * 256);
        p->table = table;
        return BSK_OK;
      }
      CHECK(op->epi.scale && op->epi.bias, "quantize_input to f32 without scale and bias");
      p->epi_float.scale = take_floats(b, op->epi.scale, op->in.c, op->in.c, 1.0f);
      p->epi_float.bias = take_floats(b, op->epi.bias, op->in.c, op->in.c, 0.0f);
      return BSK_OK;
    }
    case BSK_OP_DEQUANTIZE:
      p->name = p->plain->name;
      CHECK(op->in.dtype == BSK_I8 && present(&op->out_f32), "dequantize takes i8 and gives f32");
      return BSK_OK;
    case BSK_OP_MAX_POOL:
      p->name = p->plain->name;
      CHECK((op->in.dtype == BSK_F32 && present(&op->out_f32)) || (op->in.dtype == BSK_I8 && present(&op->out_i8)), "max_pool keeps f32 or i8");
      return plan_pool(op, shape);
    case BSK_OP_AVG_POOL:
      p->name = p->plain->name;
      CHECK(op->in.dtype == BSK_F32 && present(&op->out_f32), "avg_pool takes and gives f32");
      return plan_pool(op, shape);
    case BSK_OP_GLOBAL_POOL:
      p->name = p->plain->name;
      CHECK(shape->h == 1 && shape->w == 1 && shape->c == op->in.c, "a global pool gives (1, 1, C)");
      CHECK((op->in.dtype == BSK_F32 && present(&op->out_f32)) || (op->in.dtype == BSK_I8 && present(&op->out_i8) && op->out_i8.dtype == BSK_I32),
            "a global pool takes f32 to f32 or i8 to i32");
      CHECK(op->in.dtype == BSK_F32 || (int64_t)op->in.h * op->in.w * 255 < ((int64_t)1 << 31), "a global pool's sum could exceed int32");
      return BSK_OK;
    case BSK_OP_FC_I32: {
      if ((status = plan_fc(b, op, shape, p))) return status;
      const size_t need = bsk_round_up((size_t)shape->c * 4, BSK_ALIGN) + bsk_round_up((size_t)op->in.c * 2, BSK_ALIGN); /* sums, inputs as int16 */
      if (need > scratch->one) scratch->one = need;
      return plan_epilogue(b, op, shape, 1, p);
    }
    default: {
      p->simple = bsk_find_simple(op->kind);
      CHECK(p->simple, "unknown operation");
      for (int i = 0; i < 2; ++i)
        if ((status = check_tensor(&op->more[i], arena_bytes))) return status;
      const char *wrong = p->simple->check(op, shape);
      CHECK(!wrong, wrong);
      p->name = p->simple->name;
      if (op->table) {
        uint8_t *table = (uint8_t *)bsk_take(b, 256);
        if (table) memcpy(table, op->table, 256);
        p->table = table;
      }
      if (op->epi.kind == BSK_EPI_NONE) return BSK_OK;
      bsk_op plain = *op; /* a second input is no residual */
      plain.residual.offset = BSK_AT_NONE;
      return plan_epilogue(b, &plain, shape, integer_acc ? bsk_largest_acc(p->simple->op, (int64_t)op->in.h * op->in.w) : 0, p);
    }
  }
}

/* ---- The engine --------------------------------------------------------------------------------------------------- */

static bsk_status build(const bsk_op *ops, size_t n_ops, size_t arena_bytes, bsk_isa isa, void *memory, bsk_sizes *sizes, bsk_engine **out) {
  bsk_block b = {(char *)memory, 0};
  CHECK(ops && n_ops > 0 && n_ops <= 65536, "a program has no operation, or more than 65536");
  if (!bsk_isa_available(isa)) return bsk_fail(BSK_ERR_ISA, "this machine does not have the asked instruction set");
  bsk_engine *engine = (bsk_engine *)bsk_take(&b, sizeof(bsk_engine));
  bsk_plan_op *plans = (bsk_plan_op *)bsk_take(&b, n_ops * sizeof(bsk_plan_op));
  const size_t room = arena_bytes ? BATCH_BYTES / bsk_round_up(arena_bytes, BSK_ALIGN) : 0;
  bsk_scratch scratch = {BSK_ALIGN, BSK_ALIGN, room > MAX_BATCH ? MAX_BATCH : room < 1 ? 1 : (int32_t)room};
  int together = 0;
  for (size_t i = 0; i < n_ops; ++i) {
    bsk_plan_op local;
    const bsk_status status = plan_op(&b, &ops[i], arena_bytes, isa, &local, &scratch);
    if (status) return status;
    together |= local.together;
    if (plans) plans[i] = local;
  }
  sizes->engine_bytes = b.used;
  sizes->scratch_bytes = scratch.one;
  sizes->arena_bytes = arena_bytes;
  sizes->batch = together ? (size_t)scratch.pictures : 1;
  sizes->batch_scratch_bytes = scratch.one > scratch.batch || !together ? scratch.one : scratch.batch;
  if (engine) {
    engine->n_ops = n_ops;
    engine->ops = plans;
    *out = engine;
  }
  return BSK_OK;
}

bsk_status bsk_engine_bytes(const bsk_op *ops, size_t n_ops, size_t arena_bytes, bsk_isa isa, bsk_sizes *sizes) {
  bsk_sizes found;
  const bsk_status status = build(ops, n_ops, arena_bytes, isa, NULL, &found, NULL);
  if (status == BSK_OK) *sizes = found;
  return status;
}

bsk_status bsk_engine_init(const bsk_op *ops, size_t n_ops, size_t arena_bytes, bsk_isa isa, void *memory, size_t bytes, bsk_engine **engine) {
  bsk_sizes sizes;
  const bsk_status status = bsk_engine_bytes(ops, n_ops, arena_bytes, isa, &sizes);
  if (status) return status;
  if (!memory || bytes < sizes.engine_bytes) return bsk_fail(BSK_ERR_MEMORY, "the block for the engine is too small");
  return build(ops, n_ops, arena_bytes, isa, memory, &sizes, engine);
}

size_t bsk_engine_ops(const bsk_engine *engine) { return engine->n_ops; }
const char *bsk_engine_kernel(const bsk_engine *engine, size_t op) { return op < engine->n_ops ? engine->ops[op].name : ""; }
int bsk_engine_together(const bsk_engine *engine, size_t op) { return op < engine->n_ops && engine->ops[op].together; }
