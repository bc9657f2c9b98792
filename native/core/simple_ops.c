/* Operations that move pixels or go through a table, and the product with one value a channel: a function and a row each. */
#include "finish.h"

static size_t element(const bsk_tensor *t) { return t->dtype == BSK_F32 ? 4 : 1; }

static int present(const bsk_tensor *t) { return t->offset != BSK_AT_NONE; }

/* f32 to f32, or i8 to i8. */
static int keeps_dtype(const bsk_op *op) { return (op->in.dtype == BSK_F32 && present(&op->out_f32)) || (op->in.dtype == BSK_I8 && present(&op->out_i8)); }

static const char *check_concat(const bsk_op *op, const bsk_tensor *out) {
  const bsk_tensor *from[BSK_MAX_INPUTS] = {&op->in, &op->residual, &op->more[0], &op->more[1]};
  int64_t channels = 0;
  for (int i = 0; i < BSK_MAX_INPUTS && present(from[i]); ++i) {
    if (from[i]->dtype != op->in.dtype || from[i]->h != out->h || from[i]->w != out->w) return "the inputs of a concat differ";
    channels += from[i]->c;
  }
  return channels == out->c && keeps_dtype(op) ? NULL : "a concat's output has other channels or another dtype";
}

static void run_concat(const bsk_plan_op *p, const place *at, int32_t y0, int32_t y1, const bsk_tensor *out) {
  const bsk_tensor *from[BSK_MAX_INPUTS] = {&p->op.in, &p->op.residual, &p->op.more[0], &p->op.more[1]};
  const size_t size = element(out), first = (size_t)y0 * (size_t)out->w, end = (size_t)y1 * (size_t)out->w, step = (size_t)out->c * size;
  char *dst = (char *)write_at(at, out);
  for (int i = 0; i < BSK_MAX_INPUTS && from[i]->offset != BSK_AT_NONE; ++i) {
    const size_t bytes = (size_t)from[i]->c * size;
    const char *src = (const char *)read_at(at, from[i]);
    for (size_t pixel = first; pixel < end; ++pixel) memcpy(dst + pixel * step, src + pixel * bytes, bytes);
    dst += bytes;
  }
}

static const char *check_resize(const bsk_op *op, const bsk_tensor *out) {
  return out->c == op->in.c && keeps_dtype(op) ? NULL : "a resize changes channels or dtype";
}

static void run_resize(const bsk_plan_op *p, const place *at, int32_t y0, int32_t y1, const bsk_tensor *out) {
  const bsk_tensor *in = &p->op.in;
  const size_t bytes = (size_t)in->c * element(in);
  const char *src = (const char *)read_at(at, in);
  char *dst = (char *)write_at(at, out) + (size_t)y0 * (size_t)out->w * bytes;
  for (int32_t y = y0; y < y1; ++y) {
    const size_t row = (size_t)((int64_t)y * in->h / out->h) * (size_t)in->w;
    for (int32_t x = 0; x < out->w; ++x, dst += bytes) memcpy(dst, src + (row + (size_t)((int64_t)x * in->w / out->w)) * bytes, bytes);
  }
}

static const char *check_bilinear(const bsk_op *op, const bsk_tensor *out) {
  return out->c == op->in.c && op->in.dtype == BSK_F32 && present(&op->out_f32) ? NULL : "a bilinear resize takes and gives f32 of the same channels";
}

typedef struct {
  int32_t low, high;
  float of_low, of_high;
} between;

/* The two pixels of `size` that pixel `at` of `count` lies between, and their shares: torch's align_corners=False. */
static between between_of(int32_t at, int32_t size, int32_t count) {
  const float step = (float)size / (float)count, whole = ((float)at + 0.5f) * step, place = whole - 0.5f > 0.0f ? whole - 0.5f : 0.0f;
  between b;
  b.low = (int32_t)place < size - 1 ? (int32_t)place : size - 1;
  b.high = b.low + 1 < size ? b.low + 1 : size - 1;
  b.of_high = place - (float)b.low;
  b.of_low = 1.0f - b.of_high;
  return b;
}

/* Along the width first, then along the height. */
static void run_bilinear(const bsk_plan_op *p, const place *at, int32_t y0, int32_t y1, const bsk_tensor *out) {
  const bsk_tensor *in = &p->op.in;
  const size_t channels = (size_t)in->c, row = (size_t)in->w * channels;
  const float *src = (const float *)read_at(at, in);
  float *dst = (float *)write_at(at, out) + (size_t)y0 * (size_t)out->w * channels;
  for (int32_t y = y0; y < y1; ++y) {
    const between v = between_of(y, in->h, out->h);
    for (int32_t x = 0; x < out->w; ++x, dst += channels) {
      const between h = between_of(x, in->w, out->w);
      const float *above = src + (size_t)v.low * row, *below = src + (size_t)v.high * row;
      const size_t left = (size_t)h.low * channels, right = (size_t)h.high * channels;
      for (size_t c = 0; c < channels; ++c) {
        const float a = above[left + c] * h.of_low + above[right + c] * h.of_high;
        const float b = below[left + c] * h.of_low + below[right + c] * h.of_high;
        dst[c] = a * v.of_low + b * v.of_high;
      }
    }
  }
}

static const char *check_lookup(const bsk_op *op, const bsk_tensor *out) {
  const int same = out->h == op->in.h && out->w == op->in.w && out->c == op->in.c;
  return same && op->in.dtype == BSK_I8 && present(&op->out_i8) && op->table ? NULL : "a lookup takes and gives i8 of one shape and has a table";
}

static void run_lookup(const bsk_plan_op *p, const place *at, int32_t y0, int32_t y1, const bsk_tensor *out) {
  (void)out;
  const bsk_tensor *in = &p->op.in;
  const size_t row = (size_t)in->w * (size_t)in->c, end = (size_t)y1 * row;
  const uint8_t *src = (const uint8_t *)read_at(at, in);
  uint8_t *dst = (uint8_t *)write_at(at, &p->op.out_i8);
  const size_t first = (size_t)y0 * row;
  p->plain->table_u8(dst + first, src + first, end - first, p->table);
}

static const char *check_mul(const bsk_op *op, const bsk_tensor *out) {
  const bsk_tensor *in = &op->in, *factor = &op->residual;
  if (factor->h != 1 || factor->w != 1 || factor->c != in->c || factor->dtype != in->dtype) return "a factor is not (1, 1, channels) of the input's dtype";
  const int same = out->h == in->h && out->w == in->w && out->c == in->c;
  return same && op->epi.kind != BSK_EPI_NONE && (in->dtype == BSK_F32 || in->dtype == BSK_I8) ? NULL : "a mul takes f32 or i8 and keeps the shape";
}

static void run_mul(const bsk_plan_op *p, const place *at, int32_t y0, int32_t y1, const bsk_tensor *out) {
  (void)out;
  const bsk_tensor *in = &p->op.in;
  const size_t end = (size_t)y1 * (size_t)in->w, channels = (size_t)in->c;
  const int real = in->dtype == BSK_F32, zero = in->zero_point, factor_zero = p->op.residual.zero_point;
  const char *x = (const char *)read_at(at, in), *factor = (const char *)read_at(at, &p->op.residual);
  union {
    float f[BSK_MAX_PIXELS * BSK_GROUP];
    int32_t i[BSK_MAX_PIXELS * BSK_GROUP];
  } acc;
  for (size_t pixel = (size_t)y0 * (size_t)in->w; pixel < end;) {
    const int n = (int)(end - pixel < BSK_MAX_PIXELS ? end - pixel : BSK_MAX_PIXELS);
    for (int32_t g = 0; g < bsk_groups(in->c); ++g) {
      bsk_epi_call call;
      aim(&call, p, at, in->c, g, pixel, n);
      call.residual = NULL; /* the factor is no residual */
      const size_t first = (size_t)g * BSK_GROUP;
      for (int i = 0; i < n; ++i) {
        const size_t from = (pixel + (size_t)i) * channels + first;
        for (int lane = 0; lane < call.lanes; ++lane) {
          const size_t l = (size_t)lane;
          if (real)
            acc.f[i * BSK_GROUP + lane] = ((const float *)(const void *)x)[from + l] * ((const float *)(const void *)factor)[first + l];
          else
            acc.i[i * BSK_GROUP + lane] = (((const int8_t *)x)[from + l] - zero) * (((const int8_t *)factor)[first + l] - factor_zero);
        }
      }
      call.acc = &acc;
      call.acc_stride = BSK_GROUP;
      finish(p, &call, !real);
    }
    pixel += (size_t)n;
  }
}

static const struct bsk_simple_op simple_ops[] = {
    {BSK_FILE_CONCAT, "concat", check_concat, run_concat},         {BSK_FILE_RESIZE, "resize", check_resize, run_resize},
    {BSK_FILE_BILINEAR, "bilinear", check_bilinear, run_bilinear}, {BSK_FILE_MUL, "mul", check_mul, run_mul},
    {BSK_FILE_LOOKUP, "lookup", check_lookup, run_lookup},
};

const struct bsk_simple_op *bsk_find_simple(int32_t kind) {
  for (size_t i = 0; i < sizeof simple_ops / sizeof simple_ops[0]; ++i)
    if (kind == BSK_OP_SIMPLE + simple_ops[i].op) return &simple_ops[i];
  return NULL;
}
