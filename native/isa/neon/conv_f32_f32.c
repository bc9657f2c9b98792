/* conv_f32_f32 with NEON: 6 pixels x 32 channels in two passes of 16: 24 accumulators, 4 weights. */
#include "conv_f32_f32/conv_f32_f32.h"
#include <arm_neon.h>

#define TILE bsk_conv_f32_f32_neon
#define PIXELS(X) X(0) X(1) X(2) X(3) X(4) X(5)
#define VECTORS(X, p) X(p, a, 0) X(p, b, 1) X(p, c, 2) X(p, d, 3)
#define VECTOR float32x4_t
#define ELEMENT float
#define LANES 4
#define PASS 16
#define START(p, lane) vdupq_n_f32(0.0f)
#define STORE(at, sum) vst1q_f32(at, sum)
#define LOAD(at) vld1q_f32((const float *)(const void *)(at))
#define WEIGHTS(w) const float32x4_t w0 = LOAD(w), w1 = LOAD((w) + 16), w2 = LOAD((w) + 32), w3 = LOAD((w) + 48);
#define STEP(p)                                                       \
  {                                                                   \
    float v;                                                          \
    memcpy(&v, x##p + 4 * i, 4);                                      \
    a##p = vfmaq_n_f32(a##p, w0, v), b##p = vfmaq_n_f32(b##p, w1, v); \
    c##p = vfmaq_n_f32(c##p, w2, v), d##p = vfmaq_n_f32(d##p, w3, v); \
  }
#include "tile.inl"
