/* Convolutions with groups: output channels of a group read that group's input channels alone. Padding is left out, since
 * it reads as 0: pixels of a row under which the same taps lie inside the picture go to the kernel together. */
#include "finish.h"

/* Adds what `pixels` output pixels from (y, x) on read, whose taps of a row are [s0, s1). */
static void add_taps(const bsk_plan_op *p, bsk_grouped_call *call, const char *src, int32_t y, int32_t x, int32_t s0, int32_t s1, void *acc) {
  const bsk_op *op = &p->op;
  const bsk_tensor *in = &op->in;
  const size_t element = in->dtype == BSK_F32 ? 4 : 1;
  const int32_t step = op->gap_w + 1;
  call->taps = 0;
  for (int32_t r = 0; r < op->kh; ++r) {
    const int32_t iy = y * op->sh - op->ph + r * (op->gap_h + 1);
    if (iy < 0 || iy >= in->h) continue;
    for (int32_t s = s0; s < s1; ++s) {
      const size_t pixel = (size_t)iy * (size_t)in->w + (size_t)(x * op->sw - op->pw + s * step);
      call->px[call->taps] = src + pixel * (size_t)in->c * element;
      call->tap[call->taps++] = r * op->kw + s;
      if (call->taps == BSK_MAX_TAPS) p->grouped.kernel->run(call, acc), call->taps = 0;
    }
  }
  if (call->taps) p->grouped.kernel->run(call, acc);
}

void bsk_run_grouped(const bsk_plan_op *p, const place *at, int32_t y0, int32_t y1, const bsk_tensor *out) {
  const bsk_op *op = &p->op;
  const bsk_tensor *in = &op->in;
  const int real = in->dtype == BSK_F32;
  const char *src = (const char *)read_at(at, in);
  _Alignas(BSK_ALIGN) int32_t acc[BSK_MAX_PIXELS * BSK_GROUP];
  bsk_grouped_call call;
  memset(&call, 0, sizeof call);
  call.weights = p->grouped.weights;
  call.all_taps = op->kh * op->kw;
  call.inputs = in->c / op->groups;
  call.outputs = out->c / op->groups;
  call.padded = bsk_groups(out->c) * BSK_GROUP;
  call.zero_point = in->zero_point;
  call.pixel_bytes = (size_t)op->sw * (size_t)in->c * (real ? 4 : 1);
  for (int32_t y = y0; y < y1; ++y)
    for (int32_t g = 0; g < bsk_groups(out->c); ++g)
      for (int32_t x = 0; x < out->w;) {
        const int32_t n = out->w - x < BSK_MAX_PIXELS ? out->w - x : BSK_MAX_PIXELS;
        bsk_epi_call epilogue;
        aim(&epilogue, p, at, out->c, g, (size_t)y * (size_t)out->w + (size_t)x, n);
        call.first = g * BSK_GROUP;
        call.lanes = epilogue.lanes;
        memset(acc, 0, (size_t)n * BSK_GROUP * sizeof acc[0]); /* 0.0f too */
        for (int32_t i = 0; i < n; i += call.pixels) {
          const int32_t left = (x + i) * op->sw - op->pw, whole = in->w - bsk_reach(op->kw, op->gap_w), step = op->gap_w + 1;
          call.pixels = 1;
          if (left >= 0 && left <= whole) { /* and as many as lie inside with all their taps */
            const int32_t more = (whole - left) / op->sw;
            call.pixels = more < n - i - 1 ? more + 1 : n - i;
          }
          const int32_t s0 = left < 0 ? (step - 1 - left) / step : 0, room = (in->w - left + step - 1) / step;
          const int32_t s1 = room < op->kw ? room : op->kw;
          add_taps(p, &call, src, y, x + i, s0, s1, acc + (size_t)i * BSK_GROUP);
        }
        epilogue.acc = acc;
        epilogue.acc_stride = BSK_GROUP;
        finish(p, &epilogue, !real);
        x += n;
      }
}
