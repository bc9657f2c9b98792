/* Convolutions with groups: output channels of a group read that group's input channels alone. Padding is left out, since
 * it reads as 0. */
#include "finish.h"

void bsk_run_grouped(const bsk_plan_op *p, const place *at, int32_t y0, int32_t y1, const bsk_tensor *out) {
  const bsk_op *op = &p->op;
  const bsk_tensor *in = &op->in;
  const bsk_grouped_kernel *kernel = p->grouped.kernel;
  const int real = in->dtype == BSK_F32;
  const size_t pixel_bytes = (size_t)in->c * (real ? 4 : 1);
  const char *src = (const char *)read_at(at, in);
  _Alignas(BSK_ALIGN) int32_t acc[BSK_GROUP];
  bsk_grouped_call call;
  memset(&call, 0, sizeof call);
  call.weights = p->grouped.weights;
  call.all_taps = op->kh * op->kw;
  call.inputs = in->c / op->groups;
  call.outputs = out->c / op->groups;
  call.padded = bsk_groups(out->c) * BSK_GROUP;
  call.zero_point = in->zero_point;
  for (int32_t y = y0; y < y1; ++y)
    for (int32_t x = 0; x < out->w; ++x)
      for (int32_t g = 0; g < bsk_groups(out->c); ++g) {
        bsk_epi_call epilogue;
        aim(&epilogue, p, at, out->c, g, (size_t)y * (size_t)out->w + (size_t)x, 1);
        call.first = g * BSK_GROUP;
        call.lanes = epilogue.lanes;
        call.taps = 0;
        memset(acc, 0, sizeof acc); /* 0.0f too */
        for (int32_t r = 0; r < op->kh; ++r) {
          const int32_t iy = y * op->sh - op->ph + r;
          if (iy < 0 || iy >= in->h) continue;
          for (int32_t s = 0; s < op->kw; ++s) {
            const int32_t ix = x * op->sw - op->pw + s;
            if (ix < 0 || ix >= in->w) continue;
            call.px[call.taps] = src + ((size_t)iy * (size_t)in->w + (size_t)ix) * pixel_bytes;
            call.tap[call.taps++] = r * op->kw + s;
            if (call.taps == BSK_MAX_TAPS) kernel->run(&call, acc), call.taps = 0;
          }
        }
        if (call.taps) kernel->run(&call, acc);
        epilogue.acc = acc;
        epilogue.acc_stride = BSK_GROUP;
        finish(p, &epilogue, !real);
      }
}
