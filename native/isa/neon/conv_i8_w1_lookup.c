/* conv_i8_w1 with NEON by table lookup (lookup.h): 2 pixels x 32 channels, both groups one after the other.
 *
 * Leans on tbl of one register (2 a cycle on Cortex-A72 and later, 1 on A53). 4 inputs x 16 channels x 1 pixel take 2 tbl, 2 add and 0.5
 * of an operation to widen: 64 MACs for 4.5 operations, where smull, smull2, addp and sadalp do 16 MACs and sdot does 16 alone: so a
 * processor with the dot product takes that.
 */
#include "conv_i8_w1/conv_i8_w1.h"
#include "conv_i8_w1/lookup.h"
#include <arm_neon.h>

/* ---- Tables ------------------------------------------------------------------------------------------------------- */

static const uint8_t firsts[2][16] = {{255, 0, 1, 3, 255, 0, 1, 3, 255, 0, 1, 3, 255, 0, 1, 3}, {255, 8, 9, 11, 255, 8, 9, 11, 255, 8, 9, 11, 255, 8, 9, 11}};
static const uint8_t seconds[2][16] = {{255, 255, 255, 255, 4, 4, 4, 4, 5, 5, 5, 5, 7, 7, 7, 7},
                                       {255, 255, 255, 255, 12, 12, 12, 12, 13, 13, 13, 13, 15, 15, 15, 15}};

/* 16 channels of a pixel: 4 tables. Bytes 0, 1, 3 of a group's 8 are a0, a1, a0 + a1; 4, 5, 7 are a2, a3, a2 + a3. */
BSK_INLINE void tables(uint8_t *dst, uint8x16_t x) {
  const uint8x16_t low5 = vdupq_n_u8(31);
  const uint8x16_t lo = vandq_u8(x, low5), hi = vshrq_n_u8(x, 5); /* u = lo + 32 hi */
  const uint16x8_t l1 = vreinterpretq_u16_u8(lo), h1 = vreinterpretq_u16_u8(hi);
  const uint16x8_t l2 = vreinterpretq_u16_u8(vaddq_u8(lo, vreinterpretq_u8_u16(vshlq_n_u16(l1, 8))));
  const uint16x8_t h2 = vreinterpretq_u16_u8(vaddq_u8(hi, vreinterpretq_u8_u16(vshlq_n_u16(h1, 8))));
  for (int pair = 0; pair < 2; ++pair) {
    const uint8x16_t l = vreinterpretq_u8_u16(pair ? vzip2q_u16(l1, l2) : vzip1q_u16(l1, l2));
    const uint8x16_t h = vreinterpretq_u8_u16(pair ? vzip2q_u16(h1, h2) : vzip1q_u16(h1, h2));
    for (int g = 0; g < 2; ++g) {
      const uint8x16_t first = vld1q_u8(firsts[g]), second = vld1q_u8(seconds[g]);
      const uint8x16_t s = vaddq_u8(vqtbl1q_u8(l, first), vqtbl1q_u8(l, second)); /* at most 4 * 31 */
      const uint8x16_t t = vaddq_u8(vqtbl1q_u8(h, first), vqtbl1q_u8(h, second)); /* at most 4 * 7 */
      vst1q_u8(dst + 64 * pair + 16 * g, vandq_u8(s, low5));
      vst1q_u8(dst + 64 * pair + 32 + 16 * g, vsraq_n_u8(t, s, 5));
    }
  }
}

static int32_t rows_tables(uint8_t *dst, int32_t *sums, const int8_t *src, size_t n, int c, int cp) {
  const uint8x16_t flip = vdupq_n_u8(0x80);
  for (size_t p = 0; p < n; ++p, src += c) {
    uint32_t sum = 0;
    int i = 0;
    for (; i + 16 <= c; i += 16, dst += 128) {
      const uint8x16_t x = veorq_u8(vreinterpretq_u8_s8(vld1q_s8(src + i)), flip);
      sum += vaddlvq_u8(x);
      tables(dst, x);
    }
    if (i < cp) { /* fewer than 16 channels left, or none but a step of padding */
      uint8_t whole[128];
      int8_t rest[16];
      memset(rest, -128, sizeof rest);
      if (i < c) memcpy(rest, src + i, (size_t)(c - i));
      const uint8x16_t x = veorq_u8(vreinterpretq_u8_s8(vld1q_s8(rest)), flip);
      sum += vaddlvq_u8(x);
      tables(whole, x);
      const size_t bytes = 8 * (size_t)(cp - i);
      memcpy(dst, whole, bytes);
      dst += bytes;
    }
    sums[p] = (int32_t)sum;
  }
  return 0; /* this tile does not ask */
}

const bsk_special bsk_lookup_neon = {.step_align = 1, .line = 1, .groups = 2, .rows_tables = rows_tables, .low_bits = 5};

/* A byte of two subsets to two bytes: 32 lanes of the first, then of the second. */
void bsk_unpack_subsets_neon(const void *packed, void *weights, size_t steps) {
  const uint8_t *from = (const uint8_t *)packed;
  uint8_t *to = (uint8_t *)weights;
  for (size_t i = 0; i < steps; ++i, from += BSK_GROUP, to += 2 * BSK_GROUP)
    for (int half = 0; half < 32; half += 16) {
      const uint8x16_t both = vld1q_u8(from + half);
      vst1q_u8(to + half, vandq_u8(both, vdupq_n_u8(15)));
      vst1q_u8(to + BSK_GROUP + half, vshrq_n_u8(both, 4));
    }
}

/* ---- Tiles -------------------------------------------------------------------------------------------------------- */

#define PIXELS(X) X(0) X(1)

/* out = from + 2 * sums - less for 32 channels; the sums are taken. */
BSK_INLINE void collect(int32_t *out, const int32_t *from, int32_t less, uint16x8_t *sums) {
  for (int i = 0; i < 4; ++i) {
    const int32x4_t minus = vdupq_n_s32(less);
    const int32x4_t low = vreinterpretq_s32_u32(vshll_n_u16(vget_low_u16(sums[i]), 1)), high = vreinterpretq_s32_u32(vshll_n_u16(vget_high_u16(sums[i]), 1));
    vst1q_s32(out + 8 * i, vaddq_s32(vsubq_s32(vld1q_s32(from + 8 * i), minus), low));
    vst1q_s32(out + 8 * i + 4, vaddq_s32(vsubq_s32(vld1q_s32(from + 8 * i + 4), minus), high));
    sums[i] = vdupq_n_u16(0);
  }
}

static void two_by_32(const bsk_tile *tile, int first, int group, int32_t *out) {
  const size_t run = (size_t)tile->run, stride = (size_t)tile->groups * BSK_GROUP;
  const uint8_t *w = (const uint8_t *)tile->weights + (size_t)group * tile->group_bytes;
  uint16x8_t sums[2][4];
  const int32_t *from[2];
  int32_t less[2];
  for (int p = 0; p < 2; ++p) {
    from[p] = tile->base[first + p] + group * BSK_GROUP, less[p] = tile->total[first + p];
    for (int i = 0; i < 4; ++i) sums[p][i] = vdupq_n_u16(0);
  }
  const int32_t most = less[0] > less[1] ? less[0] : less[1];
  size_t widened = 0;
  for (int r = 0; r < tile->kh; ++r) {
#define ROW(p) const uint8_t *x##p = (const uint8_t *)tile->px[first + p] + (size_t)r * tile->row_bytes;
    PIXELS(ROW)
    for (size_t i = 0; i < run; i += BSK_LOOKUP_STEPS) {
      if (most > 65535 && widened == BSK_LOOKUP_WIDENED) {
        for (size_t p = 0; p < 2; ++p) {
          collect(out + p * stride, from[p], less[p], sums[p]);
          from[p] = out + p * stride, less[p] = 0;
        }
        widened = 0;
      }
      ++widened;
#define CLEAR(p) uint8x16_t la##p = vdupq_n_u8(0), lb##p = la##p, ha##p = la##p, hb##p = la##p;
      PIXELS(CLEAR)
      const size_t steps = run - i < BSK_LOOKUP_STEPS ? run - i : BSK_LOOKUP_STEPS;
      for (size_t k = 0; k < steps; ++k, w += 2 * BSK_GROUP) {
        const uint8x16_t a0 = vld1q_u8(w), a1 = vld1q_u8(w + 16), b0 = vld1q_u8(w + 32), b1 = vld1q_u8(w + 48);
#define LOOK(p)                                                                                                     \
  {                                                                                                                 \
    const uint8x16_t s = vld1q_u8(x##p), t = vld1q_u8(x##p + 16), u = vld1q_u8(x##p + 32), v = vld1q_u8(x##p + 48); \
    la##p = vaddq_u8(la##p, vqtbl1q_u8(s, a0)), lb##p = vaddq_u8(lb##p, vqtbl1q_u8(s, a1));                         \
    la##p = vaddq_u8(la##p, vqtbl1q_u8(t, b0)), lb##p = vaddq_u8(lb##p, vqtbl1q_u8(t, b1));                         \
    ha##p = vaddq_u8(ha##p, vqtbl1q_u8(u, a0)), hb##p = vaddq_u8(hb##p, vqtbl1q_u8(u, a1));                         \
    ha##p = vaddq_u8(ha##p, vqtbl1q_u8(v, b0)), hb##p = vaddq_u8(hb##p, vqtbl1q_u8(v, b1));                         \
    x##p += 64;                                                                                                     \
  }
        PIXELS(LOOK)
      }
#define WIDE(sum, l, h, half) vmlal_u8(vaddw_u8(sum, vget_##half##_u8(l)), vget_##half##_u8(h), vdup_n_u8(32))
#define WIDEN(p)                                                                                       \
  sums[p][0] = WIDE(sums[p][0], la##p, ha##p, low), sums[p][1] = WIDE(sums[p][1], la##p, ha##p, high); \
  sums[p][2] = WIDE(sums[p][2], lb##p, hb##p, low), sums[p][3] = WIDE(sums[p][3], lb##p, hb##p, high);
      PIXELS(WIDEN)
    }
  }
  for (size_t p = 0; p < 2; ++p) collect(out + p * stride, from[p], less[p], sums[p]);
}

void bsk_conv_i8_w1_neon_lookup(const bsk_tile *tile, void *acc) {
  for (int p = 0; p < tile->n; p += 2)
    for (int g = 0; g < tile->groups; ++g) two_by_32(tile, p, g, (int32_t *)acc + (p * tile->groups + g) * BSK_GROUP);
}
