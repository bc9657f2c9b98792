/* Included by one file an instruction set, which defines BSK_PLAIN_ISA, its name. */
#include "plain.h"

static void rows_u8(uint8_t *restrict dst, const int8_t *restrict src, size_t n, int c, int cp) {
  if (c == cp) {
    for (size_t i = 0; i < n * (size_t)c; ++i) dst[i] = (uint8_t)((uint8_t)src[i] ^ 0x80u);
    return;
  }
  for (size_t p = 0; p < n; ++p, src += c, dst += cp) {
    for (int i = 0; i < c; ++i) dst[i] = (uint8_t)((uint8_t)src[i] ^ 0x80u);
    for (int i = c; i < cp; ++i) dst[i] = 0;
  }
}

static void rows_i16(int16_t *restrict dst, const int8_t *restrict src, size_t n, int c, int cp, int zero_point) {
  if (c == cp) {
    for (size_t i = 0; i < n * (size_t)c; ++i) dst[i] = (int16_t)(src[i] - zero_point);
    return;
  }
  for (size_t p = 0; p < n; ++p, src += c, dst += cp) {
    for (int i = 0; i < c; ++i) dst[i] = (int16_t)(src[i] - zero_point);
    for (int i = c; i < cp; ++i) dst[i] = 0;
  }
}

/* `bytes` a pixel in, `nibbles` a pixel out. */
static void rows_nibbles(uint8_t *restrict dst, const uint8_t *restrict src, size_t n, int bytes, int nibbles) {
  if (nibbles == 2 * bytes) {
    for (size_t i = 0; i < n * (size_t)bytes; ++i) {
      dst[2 * i] = (uint8_t)(src[i] << 4);
      dst[2 * i + 1] = (uint8_t)(src[i] & 0xf0);
    }
    return;
  }
  for (size_t p = 0; p < n; ++p, src += bytes, dst += nibbles)
    for (int i = 0; i < nibbles; ++i) dst[i] = (uint8_t)(i % 2 ? src[i / 2] & 0xf0 : src[i / 2] << 4);
}

static void input_f32(float *restrict dst, const uint8_t *restrict src, size_t n, int c, const float *restrict scale, const float *restrict bias) {
  if (c == 3) { /* pictures: constants in registers */
    const float s0 = scale[0], s1 = scale[1], s2 = scale[2], b0 = bias[0], b1 = bias[1], b2 = bias[2];
    for (size_t p = 0; p < n; ++p) {
      dst[3 * p] = (float)src[3 * p] * s0 + b0;
      dst[3 * p + 1] = (float)src[3 * p + 1] * s1 + b1;
      dst[3 * p + 2] = (float)src[3 * p + 2] * s2 + b2;
    }
    return;
  }
  for (size_t p = 0; p < n; ++p)
    for (int i = 0; i < c; ++i) dst[p * (size_t)c + (size_t)i] = (float)src[p * (size_t)c + (size_t)i] * scale[i] + bias[i];
}

static void max_f32(float *restrict dst, const float *restrict src, size_t n) {
  for (size_t i = 0; i < n; ++i) dst[i] = src[i] > dst[i] ? src[i] : dst[i];
}

static void max_i8(int8_t *restrict dst, const int8_t *restrict src, size_t n) {
  for (size_t i = 0; i < n; ++i) dst[i] = src[i] > dst[i] ? src[i] : dst[i];
}

static void add_f32(float *restrict dst, const float *restrict src, size_t n) {
  for (size_t i = 0; i < n; ++i) dst[i] = dst[i] + src[i];
}

static void scale_f32(float *restrict dst, size_t n, float scale) {
  for (size_t i = 0; i < n; ++i) dst[i] = dst[i] * scale;
}

static void add_i8_i32(int32_t *restrict dst, const int8_t *restrict src, size_t n, int zero_point) {
  for (size_t i = 0; i < n; ++i) dst[i] += src[i] - zero_point;
}

#ifndef BSK_PLAIN_TABLE
#define BSK_PLAIN_TABLE table_u8
static void table_u8(uint8_t *dst, const uint8_t *src, size_t n, const uint8_t *table) {
  for (size_t i = 0; i < n; ++i) dst[i] = table[src[i] ^ 0x80u];
}
#endif

/* Sums of 256 products stay below 2^30. */
static int64_t dot_i16_i8(const int16_t *restrict x, const int8_t *restrict w, size_t n) {
  int64_t total = 0;
  for (size_t first = 0; first < n; first += 256) {
    const size_t last = n - first < 256 ? n : first + 256;
    int32_t sum = 0;
    for (size_t i = first; i < last; ++i) sum += x[i] * w[i];
    total += sum;
  }
  return total;
}

const bsk_plain_kernels BSK_OF(bsk_plain_, BSK_PLAIN_ISA) = {
    .name = "plain_" BSK_TEXT(BSK_PLAIN_ISA),
    .isa = (bsk_isa)BSK_OF(bsk_level_, BSK_PLAIN_ISA),
    .needs = BSK_OF(bsk_needs_, BSK_PLAIN_ISA),
    .rows_u8 = rows_u8,
    .rows_nibbles = rows_nibbles,
    .rows_i16 = rows_i16,
    .input_f32 = input_f32,
    .max_f32 = max_f32,
    .max_i8 = max_i8,
    .add_f32 = add_f32,
    .scale_f32 = scale_f32,
    .add_i8_i32 = add_i8_i32,
    .table_u8 = BSK_PLAIN_TABLE,
    .dot_i16_i8 = dot_i16_i8,
};
