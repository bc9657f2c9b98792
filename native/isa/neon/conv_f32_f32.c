/* conv_f32_f32 with NEON: 6 pixels x 32 channels in two passes of 16: 24 accumulators, 4 weights. */
#include "conv_f32_f32/conv_f32_f32.h"
#include <arm_neon.h>

#define PIXELS(X) X(0) X(1) X(2) X(3) X(4) X(5)

void bsk_conv_f32_f32_neon(const bsk_tile *tile, void *acc) {
  const size_t run = (size_t)tile->run, row_bytes = tile->row_bytes;
  for (int half = 0; half < 2; ++half) {
    const int first = 16 * half;
#define DECLARE(p)                                                             \
  float32x4_t a##p = vdupq_n_f32(0.0f), b##p = a##p, c##p = a##p, d##p = a##p; \
  const char *x##p = (const char *)tile->px[p];
    PIXELS(DECLARE)
    const float *w = (const float *)tile->weights + first;
    for (int r = tile->kh; r > 0; --r) {
      for (size_t i = 0; i < run; ++i, w += BSK_GROUP) {
        const float32x4_t w0 = vld1q_f32(w), w1 = vld1q_f32(w + 4), w2 = vld1q_f32(w + 8), w3 = vld1q_f32(w + 12);
#define STEP(p)                                                       \
  {                                                                   \
    float v;                                                          \
    memcpy(&v, x##p + 4 * i, 4);                                      \
    a##p = vfmaq_n_f32(a##p, w0, v), b##p = vfmaq_n_f32(b##p, w1, v); \
    c##p = vfmaq_n_f32(c##p, w2, v), d##p = vfmaq_n_f32(d##p, w3, v); \
  }
        PIXELS(STEP)
      }
#define NEXT_ROW(p) x##p += row_bytes;
      PIXELS(NEXT_ROW)
    }
    float *out = (float *)acc + first;
#define STORE(p)                                                                  \
  vst1q_f32(out + p * BSK_GROUP, a##p), vst1q_f32(out + p * BSK_GROUP + 4, b##p); \
  vst1q_f32(out + p * BSK_GROUP + 8, c##p), vst1q_f32(out + p * BSK_GROUP + 12, d##p);
    PIXELS(STORE)
  }
}
