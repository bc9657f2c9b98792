/* Depthwise convolutions with channels in lanes. f32: vfmadd231ps, 2 a cycle, four pixels under each weight. i8: two taps at a
 * time: their codes side by side as int16 (vpmovsxbw), vpmaddwd with the two weights, which is exact; sums of
 * zero_point * weight are taken away once a call. */
#include <immintrin.h>

#include "conv_grouped/conv_grouped.h"

void bsk_conv_depthwise_f32_avx2(const bsk_grouped_call *call, void *acc) {
  const float *weights = (const float *)call->weights + call->first;
  const size_t padded = (size_t)call->padded, step = call->pixel_bytes;
  int32_t lane = 0;
  for (; lane + 8 <= call->lanes; lane += 8) {
    float *to = (float *)acc + lane;
    int32_t p = 0;
    for (; p + 4 <= call->pixels; p += 4, to += 4 * BSK_GROUP) {
      __m256 sum0_f32 = _mm256_loadu_ps(to), sum1_f32 = _mm256_loadu_ps(to + BSK_GROUP);
      __m256 sum2_f32 = _mm256_loadu_ps(to + 2 * BSK_GROUP), sum3_f32 = _mm256_loadu_ps(to + 3 * BSK_GROUP);
      for (int32_t t = 0; t < call->taps; ++t) {
        const char *x = (const char *)call->px[t] + (size_t)p * step + 4 * (size_t)(call->first + lane);
        const __m256 w_f32 = _mm256_loadu_ps(weights + (size_t)call->tap[t] * padded + lane);
        sum0_f32 = _mm256_fmadd_ps(_mm256_loadu_ps((const float *)(const void *)x), w_f32, sum0_f32);
        sum1_f32 = _mm256_fmadd_ps(_mm256_loadu_ps((const float *)(const void *)(x + step)), w_f32, sum1_f32);
        sum2_f32 = _mm256_fmadd_ps(_mm256_loadu_ps((const float *)(const void *)(x + 2 * step)), w_f32, sum2_f32);
        sum3_f32 = _mm256_fmadd_ps(_mm256_loadu_ps((const float *)(const void *)(x + 3 * step)), w_f32, sum3_f32);
      }
      _mm256_storeu_ps(to, sum0_f32);
      _mm256_storeu_ps(to + BSK_GROUP, sum1_f32);
      _mm256_storeu_ps(to + 2 * BSK_GROUP, sum2_f32);
      _mm256_storeu_ps(to + 3 * BSK_GROUP, sum3_f32);
    }
    for (; p < call->pixels; ++p, to += BSK_GROUP) {
      __m256 sum_f32 = _mm256_loadu_ps(to);
      for (int32_t t = 0; t < call->taps; ++t) {
        const char *x = (const char *)call->px[t] + (size_t)p * step + 4 * (size_t)(call->first + lane);
        const __m256 w_f32 = _mm256_loadu_ps(weights + (size_t)call->tap[t] * padded + lane);
        sum_f32 = _mm256_fmadd_ps(_mm256_loadu_ps((const float *)(const void *)x), w_f32, sum_f32);
      }
      _mm256_storeu_ps(to, sum_f32);
    }
  }
  bsk_depthwise_f32_rest(call, (float *)acc, lane);
}

/* int16 of lanes 0..7 (and 8..15) of two taps side by side */
BSK_INLINE __m256i pairs_i16(__m128i first_i16, __m128i second_i16) {
  return _mm256_set_m128i(_mm_unpackhi_epi16(first_i16, second_i16), _mm_unpacklo_epi16(first_i16, second_i16));
}

void bsk_conv_depthwise_i8_avx2(const bsk_grouped_call *call, void *acc) {
  const int16_t *weights = (const int16_t *)call->weights + call->first;
  const size_t step = call->pixel_bytes;
  const int32_t pairs = (call->taps + 1) / 2;
  const __m256i zero_i16 = _mm256_set1_epi16((int16_t)call->zero_point);
  int32_t lane = 0;
  for (; lane + 16 <= call->lanes; lane += 16) {
    const char *x[BSK_MAX_TAPS];
    __m256i low_w_i16[BSK_MAX_TAPS / 2], high_w_i16[BSK_MAX_TAPS / 2];
    __m256i low_base_i32 = _mm256_setzero_si256(), high_base_i32 = _mm256_setzero_si256();
    for (int32_t k = 0; k < pairs; ++k) {
      const int second = 2 * k + 1 < call->taps; /* the last of an odd number has a partner of weight 0 */
      const int16_t *w0 = weights + (size_t)call->tap[2 * k] * (size_t)call->padded + lane;
      const int16_t *w1 = second ? weights + (size_t)call->tap[2 * k + 1] * (size_t)call->padded + lane : w0;
      const __m256i w0_i16 = _mm256_loadu_si256((const __m256i *)(const void *)w0);
      const __m256i w1_i16 = second ? _mm256_loadu_si256((const __m256i *)(const void *)w1) : _mm256_setzero_si256();
      low_w_i16[k] = pairs_i16(_mm256_castsi256_si128(w0_i16), _mm256_castsi256_si128(w1_i16));
      high_w_i16[k] = pairs_i16(_mm256_extracti128_si256(w0_i16, 1), _mm256_extracti128_si256(w1_i16, 1));
      low_base_i32 = _mm256_sub_epi32(low_base_i32, _mm256_madd_epi16(low_w_i16[k], zero_i16));
      high_base_i32 = _mm256_sub_epi32(high_base_i32, _mm256_madd_epi16(high_w_i16[k], zero_i16));
      x[2 * k] = (const char *)call->px[2 * k] + call->first + lane;
      x[2 * k + 1] = second ? (const char *)call->px[2 * k + 1] + call->first + lane : x[2 * k];
    }
    int32_t *to = (int32_t *)acc + lane;
    size_t at = 0;
    for (int32_t p = 0; p < call->pixels; ++p, to += BSK_GROUP, at += step) {
      __m256i low_i32 = _mm256_add_epi32(_mm256_loadu_si256((const __m256i *)(const void *)to), low_base_i32);
      __m256i high_i32 = _mm256_add_epi32(_mm256_loadu_si256((const __m256i *)(const void *)(to + 8)), high_base_i32);
      for (int32_t k = 0; k < pairs; ++k) {
        const __m128i q0_i8 = _mm_loadu_si128((const __m128i *)(const void *)(x[2 * k] + at));
        const __m128i q1_i8 = _mm_loadu_si128((const __m128i *)(const void *)(x[2 * k + 1] + at));
        low_i32 = _mm256_add_epi32(low_i32, _mm256_madd_epi16(_mm256_cvtepi8_epi16(_mm_unpacklo_epi8(q0_i8, q1_i8)), low_w_i16[k]));
        high_i32 = _mm256_add_epi32(high_i32, _mm256_madd_epi16(_mm256_cvtepi8_epi16(_mm_unpackhi_epi8(q0_i8, q1_i8)), high_w_i16[k]));
      }
      _mm256_storeu_si256((__m256i *)(void *)to, low_i32);
      _mm256_storeu_si256((__m256i *)(void *)(to + 8), high_i32);
    }
  }
  bsk_depthwise_i8_rest(call, (int32_t *)acc, lane);
}
