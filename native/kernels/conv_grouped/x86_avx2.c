/* Depthwise convolutions with channels in lanes. f32: vfmadd231ps, 2 a cycle. i8: products of (q - zero_point), at most 255,
 * and a weight, at most 127, stay within int16 (32,385), so vpmullw gives them exactly, 16 at once. */
#include <immintrin.h>

#include "conv_grouped.h"

void bsk_conv_depthwise_f32_avx2(const bsk_grouped_call *call, void *acc) {
  float *to = (float *)acc;
  const float *weights = (const float *)call->weights + call->first;
  int32_t lane = 0;
  for (; lane + 8 <= call->lanes; lane += 8) {
    __m256 sum_f32 = _mm256_loadu_ps(to + lane);
    for (int32_t t = 0; t < call->taps; ++t)
      sum_f32 = _mm256_fmadd_ps(_mm256_loadu_ps((const float *)call->px[t] + call->first + lane),
                                _mm256_loadu_ps(weights + (size_t)call->tap[t] * (size_t)call->padded + lane), sum_f32);
    _mm256_storeu_ps(to + lane, sum_f32);
  }
  bsk_depthwise_f32_rest(call, to, lane);
}

void bsk_conv_depthwise_i8_avx2(const bsk_grouped_call *call, void *acc) {
  int32_t *to = (int32_t *)acc;
  const int16_t *weights = (const int16_t *)call->weights + call->first;
  const __m256i zero_i16 = _mm256_set1_epi16((int16_t)call->zero_point);
  int32_t lane = 0;
  for (; lane + 16 <= call->lanes; lane += 16) {
    __m256i low_i32 = _mm256_loadu_si256((const __m256i *)(to + lane)), high_i32 = _mm256_loadu_si256((const __m256i *)(to + lane + 8));
    for (int32_t t = 0; t < call->taps; ++t) {
      const __m128i q_i8 = _mm_loadu_si128((const __m128i *)((const int8_t *)call->px[t] + call->first + lane));
      const __m256i w_i16 = _mm256_loadu_si256((const __m256i *)(weights + (size_t)call->tap[t] * (size_t)call->padded + lane));
      const __m256i product_i16 = _mm256_mullo_epi16(_mm256_sub_epi16(_mm256_cvtepi8_epi16(q_i8), zero_i16), w_i16);
      low_i32 = _mm256_add_epi32(low_i32, _mm256_cvtepi16_epi32(_mm256_castsi256_si128(product_i16)));
      high_i32 = _mm256_add_epi32(high_i32, _mm256_cvtepi16_epi32(_mm256_extracti128_si256(product_i16, 1)));
    }
    _mm256_storeu_si256((__m256i *)(to + lane), low_i32);
    _mm256_storeu_si256((__m256i *)(to + lane + 8), high_i32);
  }
  bsk_depthwise_i8_rest(call, to, lane);
}
