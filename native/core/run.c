/* Runs one operation of an engine on a part of its output rows. No allocation, no locks: memory is the caller's. */
#include "finish.h"

static void run_elementwise(const bsk_plan_op *p, const place *at, int32_t y0, int32_t y1) {
  const bsk_tensor *in = &p->op.in;
  const size_t end = (size_t)y1 * (size_t)in->w;
  const int32_t groups = bsk_groups(in->c);
  int32_t wide[BSK_MAX_PIXELS * BSK_GROUP];
  for (size_t pixel = (size_t)y0 * (size_t)in->w; pixel < end;) {
    const size_t most = in->dtype == BSK_I8 ? BSK_MAX_PIXELS : 64;
    const int n = (int)(end - pixel < most ? end - pixel : most);
    for (int32_t g = 0; g < groups; ++g) {
      bsk_epi_call call;
      aim(&call, p, at, in->c, g, pixel, n);
      const size_t first = pixel * (size_t)in->c + (size_t)g * BSK_GROUP;
      if (in->dtype == BSK_F32) {
        call.acc = (const float *)read_at(at, in) + first;
        call.acc_stride = (size_t)in->c;
      } else {
        const int8_t *q = (const int8_t *)read_at(at, in) + first;
        const int shift = p->op.epi.kind == BSK_EPI_THRESHOLD ? 0 : in->zero_point;
        for (int i = 0; i < n; ++i, q += in->c)
          for (int lane = 0; lane < call.lanes; ++lane) wide[i * BSK_GROUP + lane] = q[lane] - shift;
        call.acc = wide;
        call.acc_stride = BSK_GROUP;
      }
      finish(p, &call, in->dtype != BSK_F32);
    }
    pixel += (size_t)n;
  }
}

/* ---- Convolution -------------------------------------------------------------------------------------------------- */

/* Returns the largest sum of 32 channels, where the kernel wants sums. */
static int32_t copy_pixels(const bsk_plan_op *p, char *dst, int32_t *sums, uint8_t *marks, const char *src, size_t n) {
  const bsk_conv_plan *c = &p->conv;
  const int32_t channels = p->op.in.c;
  switch (c->kernel->rows) {
    case BSK_ROWS_F32:
      memcpy(dst, src, n * c->pixel_bytes);
      break;
    case BSK_ROWS_BITS: {
      const size_t from = 8 * bsk_words64(channels);
      if (from == c->pixel_bytes) {
        memcpy(dst, src, n * from);
      } else {
        for (size_t i = 0; i < n; ++i) memcpy(dst + i * c->pixel_bytes, src + i * from, c->pixel_bytes);
      }
      break;
    }
    case BSK_ROWS_SIGNS:
      c->kernel->special->rows_signs((int8_t *)dst, (const uint64_t *)(const void *)src, n, channels, c->channels_padded);
      break;
    case BSK_ROWS_NIBBLES:
      p->plain->rows_nibbles((uint8_t *)dst, (const uint8_t *)src, n, (int)(8 * bsk_words64(channels)), c->channels_padded);
      break;
    case BSK_ROWS_TABLES:
      return c->kernel->special->rows_tables((uint8_t *)dst, sums, (const int8_t *)src, n, channels, c->channels_padded);
    case BSK_ROWS_MARKED:
      c->kernel->special->rows_marked((uint8_t *)dst, marks, (const int8_t *)src, n, channels, c->channels_padded, c->most_sum);
      break;
    case BSK_ROWS_U8:
      p->plain->rows_u8((uint8_t *)dst, (const int8_t *)src, n, channels, c->channels_padded);
      break;
    case BSK_ROWS_I16:
      p->plain->rows_i16((int16_t *)(void *)dst, (const int8_t *)src, n, channels, c->channels_padded, p->op.in.zero_point);
      break;
    case BSK_ROWS_I8:
      if (channels == c->channels_padded) {
        memcpy(dst, src, n * c->pixel_bytes);
      } else {
        for (size_t i = 0; i < n; ++i) {
          memcpy(dst + i * c->pixel_bytes, src + i * (size_t)channels, (size_t)channels);
          memset(dst + i * c->pixel_bytes + channels, 0, c->pixel_bytes - (size_t)channels);
        }
      }
      break;
  }
  return 0;
}

static int32_t fill_sums(const bsk_plan_op *p, int32_t *sums, size_t n) {
  const int32_t channels = p->op.in.c, value = 128 + p->op.in.zero_point;
  for (size_t i = 0; i < n; ++i) sums[i] = channels * value;
  return (channels < 32 ? channels : 32) * value;
}

static int32_t fill_padding(const bsk_plan_op *p, char *dst, int32_t *sums, size_t n) {
  const bsk_conv_plan *c = &p->conv;
  if (c->pad_is_zero) {
    memset(dst, 0, n * c->pixel_bytes);
  } else {
    for (size_t i = 0; i < n; ++i) memcpy(dst + i * c->pixel_bytes, c->pad_pixel, c->pixel_bytes);
  }
  return sums ? fill_sums(p, sums, n) : 0;
}

/* Where pixel x of a padded row lies: with a dilation, pixels of one remainder by it follow each other. */
BSK_INLINE size_t place_of(const bsk_op *op, size_t x) {
  if (op->gap_w == 0) return x;
  const size_t step = (size_t)op->gap_w + 1, each = ((size_t)op->in.w + 2 * (size_t)op->pw + step - 1) / step;
  return x % step * each + x / step;
}

BSK_INLINE int32_t larger(int32_t a, int32_t b) { return a > b ? a : b; }

/* Padded rows [first, last) of the picture, in the kernel's form, and the sums of their pixels where the kernel wants them.
 * What no tap reads is left out: rows between kernels that are lower than their stride, and likewise pixels. */
static void prepare_rows(const bsk_plan_op *p, const char *in, char *rows, int32_t *sums, uint8_t *marks, int32_t first, int32_t last) {
  const bsk_conv_plan *c = &p->conv;
  const bsk_op *op = &p->op;
  const size_t in_pixel = op->in.dtype == BSK_BITS ? 8 * bsk_words64(op->in.c) : (size_t)op->in.c * (op->in.dtype == BSK_F32 ? 4 : 1);
  const size_t width = (size_t)op->in.w, left = (size_t)op->pw, whole = width + 2 * left;
  const size_t each = c->marks_bytes ? c->pixel_bytes / BSK_MARKED : 0, across = c->marks_bytes ? c->row_bytes / BSK_MARKED : 0; /* marks */
  const int32_t reach = bsk_reach(op->kh, op->gap_h);
  for (int32_t r = first; r < last; ++r, rows += c->row_bytes, marks += across, sums = sums ? sums + bsk_sums_width(op) : NULL) {
    const int32_t y = r - op->ph;
    if (r % op->sh >= reach) continue;
    if (across) memset(marks, 0, across);
    if (y < 0 || y >= op->in.h) {
      fill_padding(p, rows, NULL, c->row_bytes / c->pixel_bytes);
      if (sums) sums[whole] = fill_sums(p, sums, whole);
      continue;
    }
    const char *from = in + (size_t)y * width * in_pixel;
    if (op->gap_w > 0) { /* pixels that one kernel reads lie side by side: those of one remainder by the dilation together */
      fill_padding(p, rows, NULL, c->row_bytes / c->pixel_bytes);
      int32_t peak = sums ? fill_sums(p, sums, whole) : 0;
      for (size_t x = 0; x < width; ++x)
        peak = larger(peak, copy_pixels(p, rows + place_of(op, left + x) * c->pixel_bytes, sums ? sums + left + x : NULL, marks + place_of(op, left + x) * each,
                                        from + x * in_pixel, 1));
      if (sums) sums[whole] = peak;
      continue;
    }
    int32_t peak = left ? fill_padding(p, rows, sums, left) : 0;
    if (op->kw < op->sw) {
      for (size_t x = 0; x < width; ++x)
        if ((x + left) % (size_t)op->sw < (size_t)op->kw)
          peak = larger(peak,
                        copy_pixels(p, rows + (left + x) * c->pixel_bytes, sums ? sums + left + x : NULL, marks + (left + x) * each, from + x * in_pixel, 1));
    } else {
      peak = larger(peak, copy_pixels(p, rows + left * c->pixel_bytes, sums ? sums + left : NULL, marks + left * each, from, width));
    }
    fill_padding(p, rows + (left + width) * c->pixel_bytes, sums ? sums + left + width : NULL, left);
    if (sums) sums[whole] = peak;
  }
}

/* All taps of every output pixel of rows [y0, y1) side by side. */
static void prepare_lines(const bsk_plan_op *p, const char *rows, char *lines, int32_t y0, int32_t y1, int32_t width) {
  const bsk_conv_plan *c = &p->conv;
  const size_t row_step = (size_t)p->op.sh * c->row_bytes, down = ((size_t)p->op.gap_h + 1) * c->row_bytes;
  const size_t bytes = c->line_bytes / (size_t)p->op.kh;
  for (int32_t y = y0; y < y1; ++y)
    for (int32_t x = 0; x < width; ++x)
      for (int32_t r = 0; r < p->op.kh; ++r, lines += bytes)
        memcpy(lines, rows + (size_t)(y - y0) * row_step + (size_t)r * down + place_of(&p->op, (size_t)x * (size_t)p->op.sw) * c->pixel_bytes, bytes);
}

/* The sums of what the output pixels of `n` rows of a band read; `sums` starts at the band's first row. */
static void sum_windows(const bsk_op *op, int32_t *totals, const int32_t *sums, size_t n, size_t width) {
  const size_t across = bsk_sums_width(op), sw = (size_t)op->sw;
  memset(totals, 0, n * width * sizeof *totals);
  for (size_t y = 0; y < n; ++y, totals += width, sums += (size_t)op->sh * across)
    for (size_t r = 0; r < (size_t)op->kh; ++r)
      for (size_t s = 0; s < (size_t)op->kw; ++s) {
        const int32_t *restrict from = sums + r * ((size_t)op->gap_h + 1) * across + s * ((size_t)op->gap_w + 1);
        int32_t *restrict to = totals;
        if (sw == 1)
          for (size_t x = 0; x < width; ++x) to[x] += from[x];
        else
          for (size_t x = 0; x < width; ++x) to[x] += from[x * sw];
      }
}

/* The largest sum of 32 inputs, from a multiple of 32 on, in what output rows [y, last] of a band read. Pieces are those of 32 channels, or
 * fewer at the end of a pixel; where they do not fit together, as many as could lie in 32 inputs. */
static int32_t peak_of(const bsk_plan_op *p, const int32_t *sums, int32_t y, int32_t last) {
  const bsk_op *op = &p->op;
  const int32_t channels = p->conv.channels_padded, pieces = channels % 32 == 0   ? 1
                                                             : 32 % channels == 0 ? 32 / channels
                                                             : channels > 32      ? 3
                                                                                  : 2 + 30 / channels;
  const size_t across = bsk_sums_width(op);
  int32_t peak = 0;
  for (; y <= last; ++y)
    for (int32_t r = 0; r < op->kh; ++r) peak = larger(peak, sums[(size_t)(y * op->sh + r * (op->gap_h + 1) + 1) * across - 1]);
  return pieces * peak;
}

static void unpack_groups(const bsk_conv_plan *c, int32_t first, int32_t count, char *to) {
  const char *from = (const char *)c->weights + (size_t)first * c->group_bytes;
  for (int32_t g = 0; g < count; ++g) c->kernel->unpack(from + (size_t)g * c->group_bytes, to + (size_t)g * c->ready_bytes, c->steps);
}

/* Output rows [y0, y1), whose input rows in the kernel's form start at `rows`. */
static void run_band(const bsk_plan_op *p, const place *at, const char *rows, int32_t *sums, const uint8_t *marks, char *scratch, int32_t y0, int32_t y1,
                     const bsk_tensor *out) {
  const bsk_conv_plan *c = &p->conv;
  const bsk_op *op = &p->op;
  const int integer_acc = op->in.dtype != BSK_F32;
  const size_t row_step = (size_t)op->sh * c->row_bytes, col_step = (size_t)op->sw * c->pixel_bytes;
  const size_t padded = (size_t)c->groups * BSK_GROUP;
  const int pixels = c->kernel->pixels;
  const size_t begin = (size_t)y0 * (size_t)out->w, end = (size_t)y1 * (size_t)out->w;
  _Alignas(BSK_ALIGN) int32_t acc[BSK_MAX_PIXELS * BSK_GROUP];
  bsk_tile tile = {.row_bytes = ((size_t)op->gap_h + 1) * c->row_bytes,
                   .group_bytes = c->group_bytes,
                   .kh = op->kh,
                   .run = c->run,
                   .groups = 1,
                   .rows = rows,
                   .marks = marks};
  char *lines = NULL;
  if (c->line_bytes) {
    lines = scratch;
    scratch += bsk_round_up(((size_t)p->rows * (size_t)out->w + (size_t)pixels) * c->line_bytes, BSK_ALIGN);
    prepare_lines(p, rows, lines, y0, y1, out->w);
    tile.row_bytes = 0;
    tile.kh = 1;
    tile.run = op->kh * c->run;
  }

  int32_t *totals = sums ? sums + c->rows_bytes / c->row_bytes * bsk_sums_width(op) : NULL;
  if (sums) sum_windows(op, totals, sums, (size_t)(y1 - y0), (size_t)out->w);
  const int32_t span = c->kernel->special && c->kernel->special->groups ? c->kernel->special->groups : 1;
  const int at_once = BSK_MAX_PIXELS / (pixels * span) > 1 ? BSK_MAX_PIXELS / (pixels * span) : 1;
  for (int32_t g = 0; g < c->groups; g += span) {
    tile.groups = c->groups - g < span ? c->groups - g : span;
    tile.weights = (const char *)c->weights + (size_t)g * c->group_bytes;
    if (c->kernel->unpack) {
      if (at->ready) {
        tile.weights = at->ready + (size_t)g * c->ready_bytes;
      } else {
        unpack_groups(c, g, tile.groups, scratch);
        tile.weights = scratch;
      }
      tile.group_bytes = c->ready_bytes;
    }
    const int32_t *base = c->base ? c->base + (size_t)g * BSK_GROUP : NULL;
    int32_t y = y0, x = 0;
    for (size_t pixel = begin; pixel < end;) { /* as many tiles as there is room for, then one epilogue for all */
      int count = 0;
      for (int room = 0; room < at_once && pixel + (size_t)count < end; ++room) {
        const size_t first = pixel + (size_t)count;
        tile.n = (int)(end - first < (size_t)pixels ? end - first : (size_t)pixels);
        const int32_t first_row = y - y0;
        for (int i = 0; i < tile.n;) { /* the pixels of one row */
          const char *row = rows + (size_t)(y - y0) * row_step, *from = row + (size_t)x * col_step;
          const int32_t *row_base = base ? base + (size_t)c->row_class[y] * (size_t)c->col_classes * padded : NULL;
          const int stop = tile.n - i < out->w - x ? tile.n : i + out->w - x;
          if (row_base && c->col_classes == 1)
            for (int k = i; k < stop; ++k) tile.base[k] = row_base;
          else if (row_base)
            for (int k = i; k < stop; ++k) tile.base[k] = row_base + c->col_class[x + k - i] * padded;
          if (op->gap_w == 0)
            for (int k = i; k < stop; ++k, from += col_step) tile.px[k] = from;
          else
            for (int k = i; k < stop; ++k) tile.px[k] = row + place_of(op, (size_t)(x + k - i) * (size_t)op->sw) * c->pixel_bytes;
          x += stop - i, i = stop;
          if (x == out->w) x = 0, ++y;
        }
        if (sums) {
          memcpy(tile.total, totals + (first - begin), (size_t)tile.n * sizeof *totals);
          tile.peak = peak_of(p, sums, first_row, x == 0 ? y - y0 - 1 : y - y0);
        }
        for (int i = tile.n; i < pixels; ++i) { /* beyond the last pixel: compute it again, store nothing */
          tile.px[i] = tile.px[tile.n - 1];
          tile.base[i] = tile.base[tile.n - 1];
          tile.total[i] = tile.total[tile.n - 1];
        }
        if (lines)
          for (int i = 0; i < pixels; ++i) tile.px[i] = lines + (first - begin + (size_t)i) * c->line_bytes;
        c->kernel->run(&tile, acc + count * tile.groups * BSK_GROUP);
        count += tile.n;
      }
      for (int32_t part = 0; part < tile.groups; ++part) {
        bsk_epi_call call;
        aim(&call, p, at, out->c, g + part, pixel, count);
        call.acc = acc + part * BSK_GROUP;
        call.acc_stride = (size_t)tile.groups * BSK_GROUP;
        finish(p, &call, integer_acc);
      }
      pixel += (size_t)count;
    }
  }
}

static void run_conv(const bsk_plan_op *p, const place *at, int32_t y0, int32_t y1, const bsk_tensor *out) {
  const bsk_conv_plan *c = &p->conv;
  const bsk_op *op = &p->op;
  const char *in = (const char *)read_at(at, &op->in);
  const bsk_special *special = c->kernel->special;
  if (special && special->begin) special->begin();
  if (c->direct) {
    run_band(p, at, in + (size_t)(y0 * op->sh) * c->row_bytes, NULL, NULL, at->scratch, y0, y1, out);
  } else {
    char *rows = at->scratch, *scratch = rows + bsk_round_up(c->rows_bytes, BSK_ALIGN);
    int32_t *sums = c->sums_bytes ? (int32_t *)(void *)scratch : NULL;
    const size_t width = bsk_sums_width(op);
    scratch += bsk_round_up(c->sums_bytes, BSK_ALIGN);
    uint8_t *marks = (uint8_t *)scratch; /* none, where the kernel wants none */
    scratch += bsk_round_up(c->marks_bytes, BSK_ALIGN);
    const size_t marks_row = c->marks_bytes ? c->row_bytes / BSK_MARKED : 0;
    const int32_t reach = bsk_reach(op->kh, op->gap_h);
    int32_t ready = 0; /* input rows of the band that the one before has left in place */
    for (int32_t y = y0; y < y1; y += c->band) {
      const int32_t end = y1 - y < c->band ? y1 : y + c->band;
      const int32_t first = y * op->sh, last = (end - 1) * op->sh + reach;
      prepare_rows(p, in, rows + (size_t)ready * c->row_bytes, sums ? sums + (size_t)ready * width : NULL, marks + (size_t)ready * marks_row, first + ready,
                   last);
      run_band(p, at, rows, sums, marks, scratch, y, end, out);
      ready = reach > op->sh ? reach - op->sh : 0;
      if (end < y1 && ready > 0) {
        const size_t from = (size_t)(end * op->sh - first);
        memmove(rows, rows + from * c->row_bytes, (size_t)ready * c->row_bytes);
        if (marks_row) memmove(marks, marks + from * marks_row, (size_t)ready * marks_row);
        if (sums) memmove(sums, sums + from * width, (size_t)ready * width * sizeof *sums);
      }
    }
  }
  if (special && special->end) special->end();
}

/* ---- Input, pools, fc ---------------------------------------------------------------------------------------------- */

static void run_input(const bsk_plan_op *p, const place *at, int32_t y0, int32_t y1) {
  const bsk_tensor *in = &p->op.in;
  const size_t c = (size_t)in->c, first = (size_t)y0 * (size_t)in->w, n = (size_t)(y1 - y0) * (size_t)in->w;
  const uint8_t *src = (const uint8_t *)read_at(at, in) + first * c;
  float *f32 = (float *)write_at(at, &p->op.out_f32);
  if (f32) {
    p->plain->input_f32(f32 + first * c, src, n, in->c, p->epi_float.scale, p->epi_float.bias);
    return;
  }
  uint8_t *dst = (uint8_t *)write_at(at, &p->op.out_i8) + first * c;
  for (size_t i = 0; i < n; ++i)
    for (size_t ch = 0; ch < c; ++ch) dst[i * c + ch] = p->table[ch * 256 + src[i * c + ch]];
}

static void run_dequantize(const bsk_plan_op *p, const place *at, int32_t y0, int32_t y1) {
  const bsk_tensor *in = &p->op.in;
  const size_t row = (size_t)in->w * (size_t)in->c, end = (size_t)y1 * row;
  const int8_t *src = (const int8_t *)read_at(at, in);
  float *dst = (float *)write_at(at, &p->op.out_f32);
  const float scale = p->op.in_scale;
  const int zero_point = in->zero_point;
  for (size_t i = (size_t)y0 * row; i < end; ++i) dst[i] = (float)(src[i] - zero_point) * scale;
}

static void run_pool(const bsk_plan_op *p, const place *at, int32_t y0, int32_t y1, const bsk_tensor *out) {
  const bsk_op *op = &p->op;
  const size_t c = (size_t)op->in.c, element = op->in.dtype == BSK_F32 ? 4 : 1;
  const char *src = (const char *)read_at(at, &op->in);
  char *all = (char *)write_at(at, op->in.dtype == BSK_F32 ? &op->out_f32 : &op->out_i8);
  for (int32_t y = y0; y < y1; ++y) {
    for (int32_t x = 0; x < out->w; ++x) {
      char *dst = all + ((size_t)y * (size_t)out->w + (size_t)x) * c * element;
      int fresh = 1, taps = 0;
      for (int32_t r = 0; r < op->kh; ++r) {
        const int32_t iy = y * op->sh - op->ph + r;
        if (iy < 0 || iy >= op->in.h) continue;
        for (int32_t s = 0; s < op->kw; ++s) {
          const int32_t ix = x * op->sw - op->pw + s;
          if (ix < 0 || ix >= op->in.w) continue;
          ++taps;
          const char *from = src + ((size_t)iy * (size_t)op->in.w + (size_t)ix) * c * element;
          if (fresh) {
            memcpy(dst, from, c * element);
          } else if (op->kind == BSK_OP_AVG_POOL) {
            p->plain->add_f32((float *)(void *)dst, (const float *)(const void *)from, c);
          } else if (element == 4) {
            p->plain->max_f32((float *)(void *)dst, (const float *)(const void *)from, c);
          } else {
            p->plain->max_i8((int8_t *)dst, (const int8_t *)from, c);
          }
          fresh = 0;
        }
      }
      if (op->kind == BSK_OP_AVG_POOL) p->plain->scale_f32((float *)(void *)dst, c, 1.0f / (float)(op->count_padding ? (int64_t)op->kh * op->kw : taps));
    }
  }
}

static void run_global_pool(const bsk_plan_op *p, const place *at) {
  const bsk_op *op = &p->op;
  const size_t c = (size_t)op->in.c, n = (size_t)op->in.h * (size_t)op->in.w;
  if (op->in.dtype == BSK_F32) {
    const float *src = (const float *)read_at(at, &op->in);
    float *dst = (float *)write_at(at, &op->out_f32);
    memcpy(dst, src, c * 4);
    for (size_t i = 1; i < n; ++i) p->plain->add_f32(dst, src + i * c, c);
    p->plain->scale_f32(dst, c, op->pool_scale);
    return;
  }
  const int8_t *src = (const int8_t *)read_at(at, &op->in);
  int32_t *dst = (int32_t *)write_at(at, &op->out_i8);
  memset(dst, 0, c * 4);
  for (size_t i = 0; i < n; ++i) p->plain->add_i8_i32(dst, src + i * c, c, op->in.zero_point);
}

static void run_fc(const bsk_plan_op *p, const place *at, const bsk_tensor *out) {
  const size_t n = (size_t)p->op.in.c;
  const int32_t *x = (const int32_t *)read_at(at, &p->op.in);
  float *acc = (float *)(void *)at->scratch;
  int16_t *narrow = (int16_t *)(void *)(at->scratch + bsk_round_up((size_t)out->c * 4, BSK_ALIGN));
  int fits = 1; /* sums of a pool do, up to 128 pixels */
  for (size_t i = 0; i < n; ++i) narrow[i] = (int16_t)x[i], fits &= narrow[i] == x[i];
  for (int32_t o = 0; o < out->c; ++o) {
    const int8_t *w = p->fc_weights + (size_t)o * n;
    int64_t sum = 0;
    if (fits)
      sum = p->plain->dot_i16_i8(narrow, w, n);
    else
      for (size_t i = 0; i < n; ++i) sum += (int64_t)x[i] * w[i];
    acc[o] = (float)sum; /* one rounding, as from the exact integer */
  }
  for (int32_t g = 0; g < bsk_groups(out->c); ++g) {
    bsk_epi_call call;
    aim(&call, p, at, out->c, g, 0, 1);
    call.acc = acc + g * BSK_GROUP;
    call.acc_stride = (size_t)out->c;
    finish(p, &call, 0);
  }
}

static const bsk_tensor *output_of(const bsk_op *op) {
  return op->out_f32.offset != BSK_AT_NONE ? &op->out_f32 : op->out_bits.offset != BSK_AT_NONE ? &op->out_bits : &op->out_i8;
}

static int is_winograd(const bsk_plan_op *p) { return p->conv.kernel && p->conv.kernel->special && p->conv.kernel->special->winograd; }

void bsk_engine_run_op(const bsk_engine *engine, size_t index, const uint8_t *image, void *arena, void *scratch, int part, int parts) {
  const bsk_plan_op *p = &engine->ops[index];
  const bsk_op *op = &p->op;
  const place at = {.image = image, .arena = (char *)arena, .scratch = (char *)scratch, .count = 1};
  const bsk_tensor *out = output_of(op);
  const int32_t y0 = (int32_t)((int64_t)p->rows * part / parts), y1 = (int32_t)((int64_t)p->rows * (part + 1) / parts);
  if (y0 >= y1) return;
  switch (op->kind) {
    case BSK_OP_CONV:
      if (p->grouped.kernel) {
        bsk_run_grouped(p, &at, y0, y1, out);
        break;
      }
      if (is_winograd(p))
        bsk_run_winograd(p, &at, y0, y1, out);
      else
        run_conv(p, &at, y0, y1, out);
      break;
    case BSK_OP_QUANTIZE_INPUT:
      run_input(p, &at, y0, y1);
      break;
    case BSK_OP_ELEMENTWISE:
    case BSK_OP_INTEGER:
      run_elementwise(p, &at, y0, y1);
      break;
    case BSK_OP_DEQUANTIZE:
      run_dequantize(p, &at, y0, y1);
      break;
    case BSK_OP_MAX_POOL:
    case BSK_OP_AVG_POOL:
      run_pool(p, &at, y0, y1, out);
      break;
    case BSK_OP_GLOBAL_POOL:
      run_global_pool(p, &at);
      break;
    case BSK_OP_FC_I32:
      run_fc(p, &at, out);
      break;
    default:
      p->simple->run(p, &at, y0, y1, out);
      break;
  }
}

void bsk_engine_run(const bsk_engine *engine, const uint8_t *image, void *arena, void *scratch) {
  for (size_t op = 0; op < engine->n_ops; ++op) bsk_engine_run_op(engine, op, image, arena, scratch, 0, 1);
}

/* Whether all pictures of the batch go through an operation together. */
static int together(const bsk_engine *engine, size_t op, const bsk_batch *batch) { return engine->ops[op].together && batch->count > 1; }

static void run_picture(const bsk_engine *engine, size_t op, const bsk_batch *batch, size_t i) {
  const uint8_t *image = batch->images ? batch->images + i * batch->image_step : NULL;
  bsk_engine_run_op(engine, op, image, (char *)batch->arenas + i * batch->arena_step, batch->scratch, 0, 1);
}

void bsk_engine_run_batch_op(const bsk_engine *engine, size_t op, const bsk_batch *batch) {
  if (!together(engine, op, batch)) {
    for (size_t i = 0; i < batch->count; ++i) run_picture(engine, op, batch, i);
    return;
  }
  const bsk_plan_op *p = &engine->ops[op];
  const bsk_conv_plan *c = &p->conv;
  const bsk_tensor *out = output_of(&p->op);
  place at = {.arena = (char *)batch->arenas, .scratch = (char *)batch->scratch, .count = (int32_t)batch->count, .arena_step = batch->arena_step};
  if (is_winograd(p)) {
    bsk_run_winograd(p, &at, 0, p->rows, out);
    return;
  }
  unpack_groups(c, 0, c->groups, at.scratch);
  at.ready = at.scratch;
  at.scratch += bsk_round_up((size_t)c->groups * c->ready_bytes, BSK_ALIGN);
  for (size_t i = 0; i < batch->count; ++i, at.arena += batch->arena_step) run_conv(p, &at, 0, p->rows, out);
}

void bsk_engine_run_batch(const bsk_engine *engine, const bsk_batch *batch) {
  size_t end;
  for (size_t op = 0; op < engine->n_ops; op = end) {
    end = op + 1;
    if (together(engine, op, batch)) {
      bsk_engine_run_batch_op(engine, op, batch);
      continue;
    }
    while (end < engine->n_ops && !together(engine, end, batch)) ++end;
    for (size_t i = 0; i < batch->count; ++i) /* a picture through all of these: what it leaves is in the caches */
      for (size_t one = op; one < end; ++one) run_picture(engine, one, batch, i);
  }
}
