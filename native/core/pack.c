/* Weights of a convolution, from the file's order to the one its kernel reads, and what padding stands for. */
#include "plan.h"

#include "packs.h"

bsk_weights_view bsk_view_of(const bsk_op *op, int32_t outputs) {
  const int32_t inputs = op->in.c;
  const bsk_weights_view v = {outputs, op->kh, op->kw, inputs, op->weights, op->weight_stream ? (size_t)inputs : 64 * bsk_words64(inputs)};
  return v;
}

int bsk_weight_negative(const bsk_weights_view *v, int32_t o, int32_t r, int32_t s, int32_t i) {
  if (o >= v->o || i >= v->i) return 0;
  const size_t tap = ((size_t)o * (size_t)v->kh + (size_t)r) * (size_t)v->kw + (size_t)s;
  const size_t bit = tap * v->tap_bits + (size_t)i;
  return ((const uint8_t *)v->data)[bit / 8] >> (bit % 8) & 1;
}

size_t bsk_weight_at(const bsk_weights_view *v, int32_t o, int32_t r, int32_t s, int32_t i) {
  return (((size_t)o * (size_t)v->kh + (size_t)r) * (size_t)v->kw + (size_t)s) * (size_t)v->i + (size_t)i;
}

/* One step of one lane. */
static void pack_step(bsk_pack pack, const bsk_weights_view *v, char *step, int32_t lane, int32_t o, int32_t r, int32_t s, int32_t first) {
  const int n = packs[pack].inputs;
  switch (pack) {
    case BSK_PACK_BITS: {
      uint32_t word = 0;
      for (int32_t j = 0; j < 32; ++j) word |= (uint32_t)bsk_weight_negative(v, o, r, s, first + j) << j;
      memcpy(step + 4 * lane, &word, 4);
      break;
    }
    case BSK_PACK_NIBBLES:
      for (int32_t j = 0; j < 4; ++j) step[lane] = (char)(step[lane] | bsk_weight_negative(v, o, r, s, first + j) << j);
      break;
    case BSK_PACK_SUBSETS:
      for (int32_t j = 0; j < 8; ++j) step[lane] = (char)(step[lane] | !bsk_weight_negative(v, o, r, s, first + j) << j);
      break;
    case BSK_PACK_I8:
    case BSK_PACK_I8_WIDE:
      for (int32_t j = 0; j < n; ++j)
        ((int8_t *)step)[n * lane + j] = o < v->o && first + j < v->i ? ((const int8_t *)v->data)[bsk_weight_at(v, o, r, s, first + j)] : 0;
      break;
    case BSK_PACK_I16:
      for (int32_t j = 0; j < 2; ++j) {
        const int16_t value = o < v->o && first + j < v->i ? ((const int8_t *)v->data)[bsk_weight_at(v, o, r, s, first + j)] : 0;
        memcpy(step + 4 * lane + 2 * j, &value, 2);
      }
      break;
    case BSK_PACK_F32: {
      const float value = o < v->o ? ((const float *)v->data)[bsk_weight_at(v, o, r, s, first)] : 0.0f;
      memcpy(step + 4 * lane, &value, 4);
      break;
    }
    case BSK_PACK_MASK_I8:
    case BSK_PACK_MASK_I8_WIDE:
      for (int32_t j = 0; j < n; ++j) {
        const int bit = n * lane + j;
        step[bit / 8] = (char)(step[bit / 8] | bsk_weight_negative(v, o, r, s, first + j) << (bit % 8));
      }
      break;
    case BSK_PACK_MASK_F32:
      step[lane / 8] = (char)(step[lane / 8] | bsk_weight_negative(v, o, r, s, first) << (lane % 8));
      break;
  }
}

/* All steps of all groups where a kernel's row is one run of inputs: int8 or int16. */
static void pack_flat(const bsk_weights_view *v, const bsk_conv_plan *c, char *to) {
  const int n = packs[c->kernel->pack].inputs, wide = c->kernel->pack == BSK_PACK_I16;
  for (int32_t o = 0; o < c->groups * BSK_GROUP; ++o)
    for (int32_t r = 0; r < v->kh && o < v->o; ++r)
      for (int32_t at = 0; at < v->kw * v->i; ++at) {
        const size_t step = ((size_t)(o / BSK_GROUP) * (size_t)v->kh + (size_t)r) * (size_t)c->run + (size_t)(at / n);
        const size_t place = (step * BSK_GROUP + (size_t)(o % BSK_GROUP)) * (size_t)n + (size_t)(at % n);
        const int8_t value = ((const int8_t *)v->data)[bsk_weight_at(v, o, r, at / v->i, at % v->i)];
        if (wide)
          ((int16_t *)(void *)to)[place] = value;
        else
          ((int8_t *)to)[place] = value;
      }
}

/* All steps of all groups, `steps` a tap. */
void bsk_pack_weights(const bsk_weights_view *v, const bsk_conv_plan *c, int32_t steps, char *to) {
  const bsk_pack pack = c->kernel->pack;
  memset(to, 0, (size_t)c->groups * c->group_bytes);
  if (c->flat) {
    pack_flat(v, c, to);
    return;
  }
  for (int32_t g = 0; g < c->groups; ++g)
    for (int32_t r = 0; r < v->kh; ++r)
      for (int32_t s = 0; s < v->kw; ++s)
        for (int32_t i = 0; i < steps; ++i, to += packs[pack].packed)
          for (int32_t lane = 0; lane < BSK_GROUP; ++lane) pack_step(pack, v, to, lane, g * BSK_GROUP + lane, r, s, i * packs[pack].inputs);
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

int32_t bsk_classify(uint16_t *classes, int32_t n, int32_t stride, int32_t pad, int32_t gap, int32_t kernel, int32_t side, int by_padding) {
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

static int64_t weight_sum(const bsk_op *op, const bsk_weights_view *v, int32_t o, int32_t r, int32_t s) {
  int64_t sum = 0;
  for (int32_t i = 0; i < v->i; ++i)
    sum += op->weight_dtype == BSK_BITS ? 1 - 2 * bsk_weight_negative(v, o, r, s, i) : ((const int8_t *)v->data)[bsk_weight_at(v, o, r, s, i)];
  return sum;
}

void bsk_fill_base(const bsk_op *op, const bsk_weights_view *v, const bsk_conv_plan *c, int32_t oh, int32_t ow, int32_t *base) {
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
          const int32_t shift = c->kernel->rows == BSK_ROWS_U8 || c->kernel->rows == BSK_ROWS_MARKED || c->kernel->rows == BSK_ROWS_TABLES
                                    ? 128 + op->in.zero_point
                                : c->kernel->rows == BSK_ROWS_I8 ? op->in.zero_point
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

void bsk_fill_pad_pixel(const bsk_op *op, const bsk_conv_plan *c, uint8_t *pixel) {
  memset(pixel, 0, c->pixel_bytes);
  const int32_t n = op->in.c;
  if (c->kernel->rows == BSK_ROWS_U8 || c->kernel->rows == BSK_ROWS_MARKED) memset(pixel, 128 + op->in.zero_point, (size_t)n);
  if (c->kernel->rows == BSK_ROWS_TABLES) { /* every channel alike: popcount of the index times one value */
    const int low_bits = c->kernel->special->low_bits;
    for (int32_t i = 0; i < c->channels_padded; i += 4)
      for (int32_t e = 0; e < 16; ++e) {
        int32_t sum = 0;
        for (int32_t j = 0; j < 4 && i + j < n; ++j) sum += (e >> j & 1) * (128 + op->in.zero_point);
        uint8_t *at = pixel + i / 8 * 64 + i / 4 % 2 * 16 + e;
        at[0] = (uint8_t)(sum & ((1 << low_bits) - 1)), at[32] = (uint8_t)(sum >> low_bits);
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
int64_t bsk_largest_sum(const bsk_op *op) {
  return (int64_t)op->kh * op->kw * op->in.c * (op->in.dtype == BSK_BITS ? 1 : op->weight_dtype == BSK_BITS ? 255 : 255 * 127);
}

/* The same for these weights and this zero point. */
int64_t bsk_largest_here(const bsk_op *op, const bsk_weights_view *v) {
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

/* Inputs u >= 0 that sum to no more have |sum of u w| <= 32767 for all of these int8 weights. */
int32_t bsk_most_sum(const bsk_weights_view *v) {
  const int8_t *w = (const int8_t *)v->data;
  const size_t n = (size_t)v->o * (size_t)v->kh * (size_t)v->kw * (size_t)v->i;
  int32_t largest = 64;
  for (size_t i = 0; i < n; ++i) {
    const int32_t one = w[i] < 0 ? -w[i] : w[i];
    if (one > largest) largest = one;
  }
  return 32767 / largest;
}

/* Taps as int8: [group][step][tap][lane][2 inputs], from which U is made when it is needed. */
void bsk_pack_taps(const bsk_op *op, const bsk_weights_view *v, int8_t *to) {
  for (int32_t o = 0; o < v->o; ++o)
    for (int32_t tap = 0; tap < 9; ++tap)
      for (int32_t i = 0; i < v->i; ++i) {
        const size_t step = (size_t)(o / BSK_GROUP) * (size_t)(v->i / 2) + (size_t)(i / 2);
        to[((step * 9 + (size_t)tap) * BSK_GROUP + (size_t)(o % BSK_GROUP)) * 2 + (size_t)(i % 2)] =
            op->weight_dtype == BSK_BITS ? (int8_t)(1 - 2 * bsk_weight_negative(v, o, tap / 3, tap % 3, i))
                                         : ((const int8_t *)v->data)[bsk_weight_at(v, o, tap / 3, tap % 3, i)];
      }
}

/* U of floats: [group][point][input][lane]. */
void bsk_pack_points(const bsk_weights_view *v, int m, float *to) {
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
          for (int r = 0; r < 3; ++r) half[a][s] += transform[a][r] * (double)((const float *)v->data)[bsk_weight_at(v, o, r, s, i)];
        }
      float *place = to + ((size_t)(o / BSK_GROUP) * (size_t)(n * n) * (size_t)v->i + (size_t)i) * BSK_GROUP + (size_t)(o % BSK_GROUP);
      for (int a = 0; a < n; ++a)
        for (int e = 0; e < n; ++e, place += (size_t)v->i * BSK_GROUP)
          *place = (float)(transform[e][0] * half[a][0] + transform[e][1] * half[a][1] + transform[e][2] * half[a][2]);
    }
}
