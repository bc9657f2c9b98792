/* From operations to an engine: check everything once, choose kernels, repack constants into the caller's block.
 *
 * The same code runs twice. With no memory it only counts bytes (bsk_engine_bytes); with memory it fills them.
 */
#include "finish.h"
#include "packs.h"

#include <math.h>

#include "../kernels/winograd/winograd.h"

#define MAX_SIDE BSK_MAX_SIDE /* so that products stay in int64 */
#define MAX_CHANNELS BSK_MAX_CHANNELS
#define MAX_KERNEL BSK_MAX_KERNEL
#define MAX_TENSOR ((int64_t)1 << 40)
#define TABLE_BYTES (192 * 1024) /* of lookup tables at once: less than half of a small second-level cache */

static _Thread_local const char *last_error = "";
const char *bsk_last_error(void) { return last_error; }

static bsk_status fail(bsk_status status, const char *message) {
  last_error = message;
  return status;
}
#define CHECK(condition, message)                             \
  do {                                                        \
    if (!(condition)) return fail(BSK_ERR_ARGUMENT, message); \
  } while (0)

/* ---- The caller's block, handed out in aligned pieces -------------------------------------------------------- */

typedef struct {
  char *memory; /* NULL: count only */
  size_t used;
} block;

static void *take(block *b, size_t bytes) {
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
  CHECK(t->h <= MAX_SIDE && t->w <= MAX_SIDE && t->c <= MAX_CHANNELS, "a tensor has a side above 65536 or more than 2^20 channels");
  const int64_t bytes = tensor_bytes(t);
  CHECK(bytes > 0 && bytes < MAX_TENSOR, "a tensor has an unknown dtype or is too large");
  CHECK(t->dtype != BSK_I8 || (t->zero_point >= -128 && t->zero_point <= 127), "a zero point is not an int8");
  if (t->offset <= BSK_AT_INPUT) {
    CHECK(t->dtype == BSK_U8, "the program's inputs are u8");
    CHECK(t->offset > BSK_AT_INPUT - MAX_TENSOR, "an input lies too far from the first");
    return BSK_OK;
  }
  CHECK(t->dtype != BSK_U8, "only the program's inputs are u8");
  CHECK(t->offset >= 0 && (uint64_t)t->offset <= arena_bytes && (uint64_t)bytes <= arena_bytes - (uint64_t)t->offset, "a tensor lies outside the arena");
  CHECK(t->offset % (t->dtype == BSK_BITS ? 8 : t->dtype == BSK_I8 ? 1 : 4) == 0, "a tensor's offset is not aligned to its elements");
  return BSK_OK;
}

static int present(const bsk_tensor *t) { return t->offset != BSK_AT_NONE; }
static int same_shape(const bsk_tensor *a, const bsk_tensor *b) { return a->h == b->h && a->w == b->w && a->c == b->c; }

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

static const float *take_floats(block *b, const float *from, int32_t n, int32_t padded, float fill) {
  float *to = (float *)take(b, (size_t)padded * sizeof(float));
  if (to)
    for (int32_t i = 0; i < padded; ++i) to[i] = from && i < n ? from[i] : fill;
  return to;
}

static bsk_status plan_activation(block *b, const bsk_act *act, int32_t n, int32_t padded, const float **slope, const float **in, const float **out) {
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
static bsk_status plan_epilogue(block *b, const bsk_op *op, const bsk_tensor *shape, int64_t largest_acc, bsk_plan_op *p) {
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
      int32_t *t = (int32_t *)take(b, (size_t)padded * sizeof(int32_t));
      uint32_t *keep = (uint32_t *)take(b, (size_t)padded / BSK_GROUP * sizeof(uint32_t));
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
      int32_t *m = (int32_t *)take(b, (size_t)padded * sizeof(int32_t));
      int64_t *bias = (int64_t *)take(b, (size_t)padded * sizeof(int64_t));
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
      return fail(BSK_ERR_ARGUMENT, "unknown epilogue");
  }
}

/* ---- Convolution ------------------------------------------------------------------------------------------------ */

typedef struct {
  int32_t o, kh, kw, i;
  const void *data;
  size_t tap_bits; /* w1: from tap to tap */
} weights_view;

static weights_view view_of(const bsk_op *op, int32_t outputs) {
  const int32_t inputs = op->in.c;
  const weights_view v = {outputs, op->kh, op->kw, inputs, op->weights, op->weight_stream ? (size_t)inputs : 64 * bsk_words64(inputs)};
  return v;
}

static int weight_negative(const weights_view *v, int32_t o, int32_t r, int32_t s, int32_t i) {
  if (o >= v->o || i >= v->i) return 0;
  const size_t tap = ((size_t)o * (size_t)v->kh + (size_t)r) * (size_t)v->kw + (size_t)s;
  const size_t bit = tap * v->tap_bits + (size_t)i;
  return ((const uint8_t *)v->data)[bit / 8] >> (bit % 8) & 1;
}

static size_t weight_at(const weights_view *v, int32_t o, int32_t r, int32_t s, int32_t i) {
  return (((size_t)o * (size_t)v->kh + (size_t)r) * (size_t)v->kw + (size_t)s) * (size_t)v->i + (size_t)i;
}

/* One step of one lane. */
static void pack_step(bsk_pack pack, const weights_view *v, char *step, int32_t lane, int32_t o, int32_t r, int32_t s, int32_t first) {
  switch (pack) {
    case BSK_PACK_BITS: {
      uint32_t word = 0;
      for (int32_t j = 0; j < 32; ++j) word |= (uint32_t)weight_negative(v, o, r, s, first + j) << j;
      memcpy(step + 4 * lane, &word, 4);
      break;
    }
    case BSK_PACK_NIBBLES:
      for (int32_t j = 0; j < 4; ++j) step[lane] = (char)(step[lane] | weight_negative(v, o, r, s, first + j) << j);
      break;
    case BSK_PACK_SUBSETS:
      for (int32_t j = 0; j < 8; ++j) step[lane] = (char)(step[lane] | !weight_negative(v, o, r, s, first + j) << j);
      break;
    case BSK_PACK_I8:
      for (int32_t j = 0; j < 4; ++j)
        ((int8_t *)step)[4 * lane + j] = o < v->o && first + j < v->i ? ((const int8_t *)v->data)[weight_at(v, o, r, s, first + j)] : 0;
      break;
    case BSK_PACK_I16:
      for (int32_t j = 0; j < 2; ++j) {
        const int16_t value = o < v->o && first + j < v->i ? ((const int8_t *)v->data)[weight_at(v, o, r, s, first + j)] : 0;
        memcpy(step + 4 * lane + 2 * j, &value, 2);
      }
      break;
    case BSK_PACK_F32: {
      const float value = o < v->o ? ((const float *)v->data)[weight_at(v, o, r, s, first)] : 0.0f;
      memcpy(step + 4 * lane, &value, 4);
      break;
    }
    case BSK_PACK_MASK_I8:
      for (int32_t j = 0; j < 4; ++j) {
        const int bit = 4 * lane + j;
        step[bit / 8] = (char)(step[bit / 8] | weight_negative(v, o, r, s, first + j) << (bit % 8));
      }
      break;
    case BSK_PACK_MASK_F32:
      step[lane / 8] = (char)(step[lane / 8] | weight_negative(v, o, r, s, first) << (lane % 8));
      break;
  }
}

/* Classes of output positions by which taps read padding: valid taps are [low, high). */
static void valid_taps(int32_t at, int32_t stride, int32_t pad, int32_t gap, int32_t kernel, int32_t side, int32_t *low, int32_t *high) {
  const int32_t first = at * stride - pad, step = gap + 1;
  *low = first < 0 ? (step - 1 - first) / step : 0;
  if (*low > kernel) *low = kernel;
  *high = side > first ? (side - first + step - 1) / step : 0;
  if (*high > kernel) *high = kernel;
  if (*high < *low) *high = *low;
}

static int32_t classify(uint16_t *classes, int32_t n, int32_t stride, int32_t pad, int32_t gap, int32_t kernel, int32_t side, int by_padding) {
  int32_t count = 0, last_low = -1, last_high = -1;
  for (int32_t at = 0; at < n; ++at) {
    int32_t low, high;
    valid_taps(at, stride, pad, gap, kernel, side, &low, &high);
    if (!by_padding) low = 0, high = kernel;
    if (low != last_low || high != last_high) ++count; /* neighbours share classes; that is all that is needed */
    last_low = low, last_high = high;
    if (classes) classes[at] = (uint16_t)(count - 1);
  }
  return count;
}

static int64_t weight_sum(const bsk_op *op, const weights_view *v, int32_t o, int32_t r, int32_t s) {
  int64_t sum = 0;
  for (int32_t i = 0; i < v->i; ++i)
    sum += op->weight_dtype == BSK_BITS ? 1 - 2 * weight_negative(v, o, r, s, i) : ((const int8_t *)v->data)[weight_at(v, o, r, s, i)];
  return sum;
}

static void fill_base(const bsk_op *op, const weights_view *v, const bsk_conv_plan *c, int32_t oh, int32_t ow, int32_t *base) {
  const size_t padded = (size_t)c->groups * BSK_GROUP;
  for (int32_t o = 0; o < c->groups * BSK_GROUP; ++o) {
    for (int32_t y = 0; y < oh; ++y) {
      if (y > 0 && c->row_class[y] == c->row_class[y - 1]) continue;
      for (int32_t x = 0; x < ow; ++x) {
        if (x > 0 && c->col_class[x] == c->col_class[x - 1]) continue;
        int64_t value = 0;
        if (c->kernel->rows == BSK_ROWS_SIGNS) {
          value = 0; /* the kernel sums the products themselves, padding included */
        } else if (o < v->o && op->in.dtype == BSK_BITS) {
          value = (int64_t)v->kh * v->kw * v->i;
          if (op->pad_value == 0) { /* padding is packed as +1: take its contribution back */
            int32_t r0, r1, s0, s1;
            valid_taps(y, op->sh, op->ph, op->gap_h, v->kh, op->in.h, &r0, &r1);
            valid_taps(x, op->sw, op->pw, op->gap_w, v->kw, op->in.w, &s0, &s1);
            for (int32_t r = 0; r < v->kh; ++r)
              for (int32_t s = 0; s < v->kw; ++s)
                if (r < r0 || r >= r1 || s < s0 || s >= s1) value -= weight_sum(op, v, o, r, s);
          }
        } else if (o < v->o) {
          const int32_t shift = c->kernel->rows == BSK_ROWS_U8 || c->kernel->rows == BSK_ROWS_TABLES ? 128 + op->in.zero_point
                                : c->kernel->rows == BSK_ROWS_I8                                     ? op->in.zero_point
                                                                                                     : 0;
          if (shift)
            for (int32_t r = 0; r < v->kh; ++r)
              for (int32_t s = 0; s < v->kw; ++s) value -= shift * weight_sum(op, v, o, r, s);
        }
        base[((size_t)c->row_class[y] * (size_t)c->col_classes + c->col_class[x]) * padded + (size_t)o] = (int32_t)value;
      }
    }
  }
}

static void fill_pad_pixel(const bsk_op *op, const bsk_conv_plan *c, uint8_t *pixel) {
  memset(pixel, 0, c->pixel_bytes);
  const int32_t n = op->in.c;
  if (c->kernel->rows == BSK_ROWS_U8) memset(pixel, 128 + op->in.zero_point, (size_t)n);
  if (c->kernel->rows == BSK_ROWS_TABLES) { /* every channel alike: popcount of the index times one value */
    for (int32_t i = 0; i < c->channels_padded; i += 4)
      for (int32_t e = 0; e < 16; ++e) {
        int32_t sum = 0;
        for (int32_t j = 0; j < 4 && i + j < n; ++j) sum += (e >> j & 1) * (128 + op->in.zero_point);
        uint8_t *at = pixel + i / 8 * 64 + i / 4 % 2 * 16 + e;
        at[0] = (uint8_t)(sum & 31), at[32] = (uint8_t)(sum >> 5);
      }
  }
  if (c->kernel->rows == BSK_ROWS_I8) memset(pixel, (uint8_t)(int8_t)op->in.zero_point, (size_t)n);
  if (c->kernel->rows == BSK_ROWS_BITS && op->pad_value == -1)
    for (int32_t i = 0; i < n; ++i) pixel[i / 8] = (uint8_t)(pixel[i / 8] | 1u << (i % 8));
  if (c->kernel->rows == BSK_ROWS_SIGNS) memset(pixel, (uint8_t)(int8_t)op->pad_value, (size_t)n);
  if (c->kernel->rows == BSK_ROWS_NIBBLES && op->pad_value == -1)
    for (int32_t i = 0; i < n; ++i) pixel[i / 4] = (uint8_t)(pixel[i / 4] | 16u << (i % 4));
}

/* No integer accumulator of the convolution is larger in absolute value. */
static int64_t largest_sum(const bsk_op *op) {
  return (int64_t)op->kh * op->kw * op->in.c * (op->in.dtype == BSK_BITS ? 1 : op->weight_dtype == BSK_BITS ? 255 : 255 * 127);
}

/* The same for these weights and this zero point. */
static int64_t largest_here(const bsk_op *op, const weights_view *v) {
  const int64_t below = (int64_t)op->in.zero_point + 128, above = 127 - (int64_t)op->in.zero_point, side = below > above ? below : above;
  if (op->weight_dtype == BSK_BITS) return (int64_t)v->kh * v->kw * v->i * side;
  const int8_t *w = (const int8_t *)v->data;
  const size_t n = (size_t)v->kh * (size_t)v->kw * (size_t)v->i;
  int64_t most = 0;
  for (int32_t o = 0; o < v->o; ++o) {
    int64_t positive = 0, negative = 0;
    for (size_t i = 0; i < n; ++i) {
      const int8_t one = w[(size_t)o * n + i];
      positive += one > 0 ? one : 0, negative -= one < 0 ? one : 0;
    }
    const int64_t up = positive * above + negative * below, down = positive * below + negative * above;
    if (up > most) most = up;
    if (down > most) most = down;
  }
  return most;
}

/* Taps as int8: [group][step][tap][lane][2 inputs], from which U is made when it is needed. */
static void pack_taps(const bsk_op *op, const weights_view *v, int8_t *to) {
  for (int32_t o = 0; o < v->o; ++o)
    for (int32_t tap = 0; tap < 9; ++tap)
      for (int32_t i = 0; i < v->i; ++i) {
        const size_t step = (size_t)(o / BSK_GROUP) * (size_t)(v->i / 2) + (size_t)(i / 2);
        to[((step * 9 + (size_t)tap) * BSK_GROUP + (size_t)(o % BSK_GROUP)) * 2 + (size_t)(i % 2)] =
            op->weight_dtype == BSK_BITS ? (int8_t)(1 - 2 * weight_negative(v, o, tap / 3, tap % 3, i))
                                         : ((const int8_t *)v->data)[weight_at(v, o, tap / 3, tap % 3, i)];
      }
}

/* U of floats: [group][point][input][lane]. */
static void pack_points(const weights_view *v, int m, float *to) {
  static const double four[6][3] = {
      {1 / 4.0, 0, 0}, {-1 / 6.0, -1 / 6.0, -1 / 6.0}, {-1 / 6.0, 1 / 6.0, -1 / 6.0}, {1 / 24.0, 1 / 12.0, 1 / 6.0}, {1 / 24.0, -1 / 12.0, 1 / 6.0}, {0, 0, 1}};
  static const double two[4][3] = {{1, 0, 0}, {0.5, 0.5, 0.5}, {0.5, -0.5, 0.5}, {0, 0, 1}};
  const int n = m + 2;
  const double (*transform)[3] = m == 4 ? four : two;
  for (int32_t o = 0; o < v->o; ++o)
    for (int32_t i = 0; i < v->i; ++i) {
      double half[6][3];
      for (int a = 0; a < n; ++a)
        for (int s = 0; s < 3; ++s) {
          half[a][s] = 0.0;
          for (int r = 0; r < 3; ++r) half[a][s] += transform[a][r] * (double)((const float *)v->data)[weight_at(v, o, r, s, i)];
        }
      float *place = to + ((size_t)(o / BSK_GROUP) * (size_t)(n * n) * (size_t)v->i + (size_t)i) * BSK_GROUP + (size_t)(o % BSK_GROUP);
      for (int a = 0; a < n; ++a)
        for (int e = 0; e < n; ++e, place += (size_t)v->i * BSK_GROUP)
          *place = (float)(transform[e][0] * half[a][0] + transform[e][1] * half[a][1] + transform[e][2] * half[a][2]);
    }
}

static bsk_status plan_winograd(block *b, const bsk_op *op, const weights_view *v, const bsk_tensor *shape, bsk_plan_op *p, size_t *scratch) {
  bsk_conv_plan *c = &p->conv;
  const struct bsk_winograd *how = c->kernel->special->winograd;
  const size_t element = how->is_float ? 4 : 2, points = (size_t)how->n * (size_t)how->n, channels = (size_t)v->i;
  const int32_t across = (shape->w + how->m - 1) / how->m, down = (shape->h + how->m - 1) / how->m, tiles = across * down;
  c->groups = bsk_groups(shape->c);
  c->band = tiles < BSK_WINOGRAD_TILES ? tiles : BSK_WINOGRAD_TILES;
  c->run = (int32_t)(how->is_float ? channels : channels / 2);
  c->ready_bytes = channels * BSK_GROUP * element; /* a point of a group */
  c->group_bytes = how->is_float ? points * c->ready_bytes : 9 * channels * BSK_GROUP;
  c->pixel_bytes = channels * (how->is_float ? 4 : 1);
  c->rows_bytes = points * BSK_WINOGRAD_APART((size_t)c->band * channels * element);
  /* Every thread makes U of the groups, or V of the tiles, that it works on: the dearer ones are shared. */
  c->by_groups = !how->is_float && 3 * tiles <= shape->c;
  p->rows = c->by_groups ? c->groups : down;
  const size_t padded = bsk_round_up((size_t)c->band, (size_t)c->kernel->pixels);
  c->line_bytes = points * BSK_WINOGRAD_APART(padded * BSK_GROUP * 4);
  const int32_t segment = across < c->band ? across : c->band;
  size_t need = bsk_round_up(c->rows_bytes, BSK_ALIGN) + bsk_round_up(c->line_bytes, BSK_ALIGN);
  if (how->expand) need += 2 * (size_t)how->own * BSK_WINOGRAD_APART(c->ready_bytes);
  need += (size_t)how->m * (size_t)how->m * (size_t)segment * BSK_GROUP * 4;
  if (need > *scratch) *scratch = bsk_round_up(need, BSK_ALIGN);
  char *weights = (char *)take(b, (size_t)c->groups * c->group_bytes);
  uint8_t *pad_pixel = (uint8_t *)take(b, c->pixel_bytes);
  int32_t *base = (int32_t *)take(b, BSK_GROUP * sizeof(int32_t));
  c->weights = weights;
  c->pad_pixel = pad_pixel;
  c->base = base;
  if (!b->memory) return BSK_OK;
  memset(weights, 0, (size_t)c->groups * c->group_bytes);
  memset(pad_pixel, how->is_float ? 0 : (uint8_t)(int8_t)op->in.zero_point, c->pixel_bytes);
  memset(base, 0, BSK_GROUP * sizeof(int32_t));
  if (how->is_float)
    pack_points(v, how->m, (float *)(void *)weights);
  else
    pack_taps(op, v, (int8_t *)weights);
  return BSK_OK;
}

static bsk_status plan_grouped(block *b, const bsk_op *op, bsk_isa isa, const bsk_tensor *shape, bsk_plan_op *p) {
  const bsk_tensor *in = &op->in;
  const int real = in->dtype == BSK_F32, depthwise = in->c == op->groups && shape->c == op->groups;
  CHECK((real && op->weight_dtype == BSK_F32) || (in->dtype == BSK_I8 && op->weight_dtype == BSK_I8), "groups are for f32 and i8 inputs and weights");
  CHECK(in->c % op->groups == 0 && shape->c % op->groups == 0, "channels do not divide into the groups");
  const int64_t taps = (int64_t)op->kh * op->kw, inputs = in->c / op->groups, padded = (int64_t)bsk_groups(shape->c) * BSK_GROUP;
  CHECK(real || taps * inputs * 255 * 127 < (int64_t)1 << 31, "a convolution's accumulator could exceed int32");
  CHECK(taps * inputs * padded < MAX_TENSOR, "a convolution has too many weights");
  p->grouped.kernel = bsk_find_grouped(real ? BSK_F32 : BSK_I8, depthwise, isa);
  if (!p->grouped.kernel) return fail(BSK_ERR_ISA, "no kernel for this instruction set");
  p->name = p->grouped.kernel->name;
  const size_t count = (size_t)(taps * inputs * shape->c);
  if (!p->grouped.kernel->depthwise) {
    void *weights = take(b, count * (real ? 4 : 1));
    if (weights) memcpy(weights, op->weights, count * (real ? 4 : 1));
    p->grouped.weights = weights;
    return BSK_OK;
  }
  char *weights = (char *)take(b, (size_t)(taps * padded) * (real ? 4 : 2));
  p->grouped.weights = weights;
  if (!weights) return BSK_OK;
  memset(weights, 0, (size_t)(taps * padded) * (real ? 4 : 2));
  for (int64_t o = 0; o < shape->c; ++o)
    for (int64_t t = 0; t < taps; ++t) {
      if (real)
        ((float *)(void *)weights)[t * padded + o] = ((const float *)op->weights)[o * taps + t];
      else
        ((int16_t *)(void *)weights)[t * padded + o] = ((const int8_t *)op->weights)[o * taps + t];
    }
  return BSK_OK;
}

static bsk_status plan_conv(block *b, const bsk_op *op, bsk_isa isa, const bsk_tensor *shape, bsk_plan_op *p, size_t *scratch) {
  const bsk_tensor *in = &op->in;
  bsk_conv_types types;
  CHECK(op->weights, "a convolution without weights");
  CHECK(op->kh >= 1 && op->kw >= 1 && op->kh <= MAX_KERNEL && op->kw <= MAX_KERNEL, "a kernel side is not in 1..255");
  CHECK(op->sh >= 1 && op->sw >= 1 && op->sh <= MAX_SIDE && op->sw <= MAX_SIDE, "a stride is not in 1..65536");
  CHECK(op->gap_h >= 0 && op->gap_w >= 0 && op->gap_h < BSK_MAX_DILATION && op->gap_w < BSK_MAX_DILATION, "a dilation is not in 1..32768");
  const int32_t reach_h = bsk_reach(op->kh, op->gap_h), reach_w = bsk_reach(op->kw, op->gap_w);
  CHECK(op->ph >= 0 && op->pw >= 0 && op->ph < MAX_KERNEL && op->pw < MAX_KERNEL, "a padding is not in 0..254");
  CHECK(reach_h <= in->h + 2 * op->ph && reach_w <= in->w + 2 * op->pw, "a kernel is larger than its padded picture");
  CHECK(shape->h == (in->h + 2 * op->ph - reach_h) / op->sh + 1 && shape->w == (in->w + 2 * op->pw - reach_w) / op->sw + 1,
        "a convolution's output has the wrong height or width");
  if (op->groups > 1) return plan_grouped(b, op, isa, shape, p);
  const int64_t inputs = (int64_t)op->kh * op->kw * in->c;
  if (in->dtype == BSK_BITS && op->weight_dtype == BSK_BITS) {
    types = BSK_CONV_BITS_W1;
    CHECK(op->pad_value >= -1 && op->pad_value <= 1, "the padding value of signs is not -1, 0 or 1");
  } else if (in->dtype == BSK_I8 && op->weight_dtype == BSK_BITS) {
    types = BSK_CONV_I8_W1;
  } else if (in->dtype == BSK_I8 && op->weight_dtype == BSK_I8) {
    types = BSK_CONV_I8_I8;
  } else if (in->dtype == BSK_F32 && op->weight_dtype == BSK_BITS) {
    types = BSK_CONV_F32_W1;
  } else if (in->dtype == BSK_F32 && op->weight_dtype == BSK_F32) {
    types = BSK_CONV_F32_F32;
  } else {
    return fail(BSK_ERR_UNSUPPORTED, "no convolution for these types of input and weights");
  }
  CHECK(in->dtype == BSK_F32 || largest_sum(op) < ((int64_t)1 << (in->dtype == BSK_BITS ? 30 : 31)), "a convolution's accumulator could exceed int32");
  CHECK(inputs * shape->c < MAX_TENSOR, "a convolution has too many weights");

  bsk_conv_plan *c = &p->conv;
  const weights_view v = view_of(op, shape->c);
  const bsk_conv_shape what = {
      in->c, shape->c, shape->h, shape->w, op->kh, op->kw, op->sh, op->sw, op->gap_h > 0 || op->gap_w > 0, in->dtype == BSK_I8 ? largest_here(op, &v) : 0};
  c->kernel = bsk_find_conv(types, isa, &what);
  if (!c->kernel) return fail(BSK_ERR_ISA, "no kernel for this instruction set");
  p->name = c->kernel->name;
  if (c->kernel->special && c->kernel->special->winograd) return plan_winograd(b, op, &v, shape, p, scratch);
  const int per_step = packs[c->kernel->pack].inputs;
  const bsk_special *special = c->kernel->special;
  const int32_t steps = (int32_t)bsk_round_up((size_t)((in->c + per_step - 1) / per_step), special ? (size_t)special->step_align : 1); /* a pixel */
  c->groups = bsk_groups(shape->c);
  c->channels_padded = c->kernel->rows == BSK_ROWS_BITS || c->kernel->rows == BSK_ROWS_NIBBLES ? steps : steps * per_step;
  c->pixel_bytes = (size_t)c->channels_padded * row_element[c->kernel->rows];
  const size_t across = (size_t)op->gap_w + 1;
  c->row_bytes = c->pixel_bytes * (((size_t)in->w + 2 * (size_t)op->pw + across - 1) / across * across);
  c->band = shape->h;
  if (c->kernel->rows == BSK_ROWS_TABLES) { /* 8 times the bytes of the input: a band of rows that stays in cache */
    const int64_t rows = TABLE_BYTES / (int64_t)c->row_bytes, most = (rows - reach_h) / op->sh + 1;
    if (most < c->band) c->band = most < 1 ? 1 : (int32_t)most;
    c->band = (shape->h + (shape->h + c->band - 1) / c->band - 1) / ((shape->h + c->band - 1) / c->band); /* even bands */
  }
  const size_t in_rows = c->band < shape->h ? (size_t)(c->band - 1) * (size_t)op->sh + (size_t)reach_h : (size_t)in->h + 2 * (size_t)op->ph;
  c->rows_bytes = c->row_bytes * in_rows;
  c->sums_bytes = c->kernel->rows == BSK_ROWS_TABLES ? in_rows * ((size_t)in->w + 2 * (size_t)op->pw) * sizeof(int32_t) : 0;
  c->run = op->kw * steps;
  c->steps = (size_t)op->kh * (size_t)c->run;
  c->group_bytes = c->steps * packs[c->kernel->pack].packed;
  c->direct = op->ph == 0 && op->pw == 0 && op->gap_w == 0 &&
              ((c->kernel->rows == BSK_ROWS_F32) || (c->kernel->rows == BSK_ROWS_BITS && steps % 2 == 0) ||
               (c->kernel->rows == BSK_ROWS_I8 && in->c == c->channels_padded));
  size_t need = c->direct ? 0 : bsk_round_up(c->rows_bytes, BSK_ALIGN) + bsk_round_up(c->sums_bytes, BSK_ALIGN);
  if (special && shape->w % special->line != 0) {
    c->line_bytes = (size_t)op->kh * (size_t)c->run * (size_t)per_step * row_element[c->kernel->rows];
    need += bsk_round_up(((size_t)shape->h * (size_t)shape->w + (size_t)c->kernel->pixels) * c->line_bytes, BSK_ALIGN);
  }
  c->ready_bytes = c->steps * packs[c->kernel->pack].ready;
  if (c->kernel->unpack) need += bsk_round_up(c->ready_bytes * (size_t)(special && special->groups ? special->groups : 1), BSK_ALIGN);
  if (need > *scratch) *scratch = need;

  char *weights = (char *)take(b, (size_t)c->groups * c->group_bytes);
  uint8_t *pad_pixel = (uint8_t *)take(b, c->pixel_bytes);
  uint16_t *row_class = (uint16_t *)take(b, (size_t)shape->h * sizeof(uint16_t));
  uint16_t *col_class = (uint16_t *)take(b, (size_t)shape->w * sizeof(uint16_t));
  const int by_padding = in->dtype == BSK_BITS && op->pad_value == 0 && c->kernel->rows != BSK_ROWS_SIGNS;
  const int32_t row_classes = classify(row_class, shape->h, op->sh, op->ph, op->gap_h, op->kh, in->h, by_padding);
  c->col_classes = classify(col_class, shape->w, op->sw, op->pw, op->gap_w, op->kw, in->w, by_padding);
  int32_t *base =
      in->dtype == BSK_F32 ? NULL : (int32_t *)take(b, (size_t)row_classes * (size_t)c->col_classes * (size_t)c->groups * BSK_GROUP * sizeof(int32_t));
  c->weights = weights;
  c->pad_pixel = pad_pixel;
  c->row_class = row_class;
  c->col_class = col_class;
  c->base = base;
  if (!b->memory) return BSK_OK;

  memset(weights, 0, (size_t)c->groups * c->group_bytes);
  char *step = weights;
  for (int32_t g = 0; g < c->groups; ++g)
    for (int32_t r = 0; r < op->kh; ++r)
      for (int32_t s = 0; s < op->kw; ++s)
        for (int32_t i = 0; i < steps; ++i, step += packs[c->kernel->pack].packed)
          for (int32_t lane = 0; lane < BSK_GROUP; ++lane) pack_step(c->kernel->pack, &v, step, lane, g * BSK_GROUP + lane, r, s, i * per_step);
  fill_pad_pixel(op, c, pad_pixel);
  c->pad_is_zero = 1;
  for (size_t i = 0; i < c->pixel_bytes; ++i) c->pad_is_zero &= pad_pixel[i] == 0;
  if (base) fill_base(op, &v, c, shape->h, shape->w, base);
  return BSK_OK;
}

/* ---- The other operations --------------------------------------------------------------------------------------- */

static bsk_status plan_pool(const bsk_op *op, const bsk_tensor *shape) {
  const bsk_tensor *in = &op->in;
  CHECK(op->kh >= 1 && op->kw >= 1 && op->sh >= 1 && op->sw >= 1 && op->sh <= MAX_SIDE && op->sw <= MAX_SIDE, "a pool's window or stride is below 1");
  CHECK(op->ph >= 0 && op->pw >= 0 && op->ph < op->kh && op->pw < op->kw && op->kh <= MAX_SIDE && op->kw <= MAX_SIDE,
        "a pool's padding is not below its window");
  const int32_t low_h = in->h + 2 * op->ph - op->kh, low_w = in->w + 2 * op->pw - op->kw;
  const int32_t most_h = low_h < 0 ? 1 : (low_h + op->sh - 1) / op->sh + 1, most_w = low_w < 0 ? 1 : (low_w + op->sw - 1) / op->sw + 1;
  CHECK(shape->c == in->c && shape->h <= most_h && shape->w <= most_w, "a pool's output has the wrong shape");
  /* A window that reads nothing but padding would have no maximum. */
  CHECK((shape->h - 1) * op->sh - op->ph < in->h && (shape->w - 1) * op->sw - op->pw < in->w, "a pool's window lies in the padding");
  return BSK_OK;
}

static bsk_status plan_fc(block *b, const bsk_op *op, const bsk_tensor *shape, bsk_plan_op *p) {
  const int32_t n = op->in.c, o = shape->c;
  CHECK(op->in.dtype == BSK_I32 && op->in.h == 1 && op->in.w == 1 && shape->h == 1 && shape->w == 1, "an fc on i32 takes and gives a vector");
  CHECK(op->weights && (op->weight_dtype == BSK_I8 || op->weight_dtype == BSK_BITS), "an fc on i32 has i8 or w1 weights");
  CHECK(op->epi.kind == BSK_EPI_FLOAT, "an fc on i32 has a float epilogue");
  int8_t *weights = (int8_t *)take(b, (size_t)n * (size_t)o);
  p->fc_weights = weights;
  if (weights) {
    const weights_view v = view_of(op, o);
    for (int32_t i = 0; i < o; ++i)
      for (int32_t j = 0; j < n; ++j)
        weights[(size_t)i * (size_t)n + (size_t)j] =
            op->weight_dtype == BSK_BITS ? (int8_t)(1 - 2 * weight_negative(&v, i, 0, 0, j)) : ((const int8_t *)op->weights)[weight_at(&v, i, 0, 0, j)];
  }
  return BSK_OK;
}

static bsk_status plan_op(block *b, const bsk_op *op, size_t arena_bytes, bsk_isa isa, bsk_plan_op *p, size_t *scratch) {
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
      if ((status = plan_conv(b, op, isa, shape, p, scratch))) return status;
      return plan_epilogue(b, op, shape, integer_acc ? largest_sum(op) : 0, p);
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
        uint8_t *table = (uint8_t *)take(b, (size_t)op->in.c * 256);
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
    case BSK_OP_FC_I32:
      if ((status = plan_fc(b, op, shape, p))) return status;
      *scratch = *scratch < (size_t)shape->c * 4 ? bsk_round_up((size_t)shape->c * 4, BSK_ALIGN) : *scratch;
      return plan_epilogue(b, op, shape, 1, p);
    default: {
      p->simple = bsk_find_simple(op->kind);
      CHECK(p->simple, "unknown operation");
      for (int i = 0; i < 2; ++i)
        if ((status = check_tensor(&op->more[i], arena_bytes))) return status;
      const char *wrong = p->simple->check(op, shape);
      CHECK(!wrong, wrong);
      p->name = p->simple->name;
      if (op->table) {
        uint8_t *table = (uint8_t *)take(b, 256);
        if (table) memcpy(table, op->table, 256);
        p->table = table;
      }
      if (op->epi.kind == BSK_EPI_NONE) return BSK_OK;
      bsk_op plain = *op; /* a second input is no residual */
      plain.residual.offset = BSK_AT_NONE;
      return plan_epilogue(b, &plain, shape, integer_acc ? p->simple->largest_acc : 0, p);
    }
  }
}

/* ---- The engine --------------------------------------------------------------------------------------------------- */

static bsk_status build(const bsk_op *ops, size_t n_ops, size_t arena_bytes, bsk_isa isa, void *memory, size_t *bytes, size_t *scratch, bsk_engine **out) {
  block b = {(char *)memory, 0};
  CHECK(ops && n_ops > 0 && n_ops <= 65536, "a program has no operation, or more than 65536");
  if (!bsk_isa_available(isa)) return fail(BSK_ERR_ISA, "this machine does not have the asked instruction set");
  bsk_engine *engine = (bsk_engine *)take(&b, sizeof(bsk_engine));
  bsk_plan_op *plans = (bsk_plan_op *)take(&b, n_ops * sizeof(bsk_plan_op));
  *scratch = BSK_ALIGN;
  for (size_t i = 0; i < n_ops; ++i) {
    bsk_plan_op local;
    const bsk_status status = plan_op(&b, &ops[i], arena_bytes, isa, &local, scratch);
    if (status) return status;
    if (plans) plans[i] = local;
  }
  *bytes = b.used;
  if (engine) {
    engine->n_ops = n_ops;
    engine->arena_bytes = arena_bytes;
    engine->scratch_bytes = *scratch;
    engine->isa = isa;
    engine->ops = plans;
    *out = engine;
  }
  return BSK_OK;
}

bsk_status bsk_engine_bytes(const bsk_op *ops, size_t n_ops, size_t arena_bytes, bsk_isa isa, bsk_sizes *sizes) {
  size_t bytes = 0, scratch = 0;
  const bsk_status status = build(ops, n_ops, arena_bytes, isa, NULL, &bytes, &scratch, NULL);
  if (status) return status;
  sizes->engine_bytes = bytes;
  sizes->scratch_bytes = scratch;
  sizes->arena_bytes = arena_bytes;
  return BSK_OK;
}

bsk_status bsk_engine_init(const bsk_op *ops, size_t n_ops, size_t arena_bytes, bsk_isa isa, void *memory, size_t bytes, bsk_engine **engine) {
  bsk_sizes sizes;
  size_t used, scratch;
  const bsk_status status = bsk_engine_bytes(ops, n_ops, arena_bytes, isa, &sizes);
  if (status) return status;
  if (!memory || bytes < sizes.engine_bytes) return fail(BSK_ERR_MEMORY, "the block for the engine is too small");
  return build(ops, n_ops, arena_bytes, isa, memory, &used, &scratch, engine);
}

size_t bsk_engine_ops(const bsk_engine *engine) { return engine->n_ops; }
const char *bsk_engine_kernel(const bsk_engine *engine, size_t op) { return op < engine->n_ops ? engine->ops[op].name : ""; }
