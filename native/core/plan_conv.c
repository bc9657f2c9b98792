/* Convolutions made ready: which kernel computes one, what it needs in scratch, and its constants. */
#include "plan.h"

#include "packs.h"

#include "../kernels/winograd/winograd.h"

#define BATCH_TILES 64                  /* of Winograd's, of several pictures in a band */
#define BATCH_TILE_BYTES (640 * 1024)   /* and of their V */
#define BATCH_PIXELS 128                /* with more output pixels a picture, unpacking 1-bit weights takes no time beside the sums */
#define BATCH_READY_BYTES (1024 * 1024) /* of the unpacked weights of all groups: what a cache holds */
#define TABLE_BYTES (192 * 1024)        /* of lookup tables at once: less than half of a small second-level cache */

static void grow(size_t *most, size_t need) {
  if (bsk_round_up(need, BSK_ALIGN) > *most) *most = bsk_round_up(need, BSK_ALIGN);
}

static bsk_status plan_winograd(bsk_block *b, const bsk_op *op, const bsk_weights_view *v, const bsk_tensor *shape, bsk_plan_op *p, bsk_scratch *scratch) {
  bsk_conv_plan *c = &p->conv;
  const struct bsk_winograd *how = c->kernel->special->winograd;
  const size_t element = how->is_float ? 4 : 2, points = (size_t)how->n * (size_t)how->n, channels = (size_t)v->i;
  const int32_t across = (shape->w + how->m - 1) / how->m, down = (shape->h + how->m - 1) / how->m, tiles = across * down;
  c->groups = bsk_groups(shape->c);
  c->band = tiles < BSK_WINOGRAD_TILES ? tiles : BSK_WINOGRAD_TILES;
  c->run = (int32_t)(how->is_float ? channels : channels / 2);
  c->ready_bytes = channels * BSK_GROUP * element; /* a point of a group */
  c->group_bytes = how->is_float ? points * c->ready_bytes : 9 * channels * BSK_GROUP;
  c->pixel_bytes = channels * (how->is_float ? 4 : 1);
  /* Every thread makes U of the groups, or V of the tiles, that it works on: the dearer ones are shared. */
  c->by_groups = !how->is_float && 3 * tiles <= shape->c;
  p->rows = c->by_groups ? c->groups : down;
  /* Together where a band holds at least two pictures: what is made of the weights, or read of them, serves both. */
  const size_t fit = BATCH_TILE_BYTES / (points * channels * element);
  const int32_t room = fit < BATCH_TILES ? (int32_t)fit : BATCH_TILES;
  p->together = scratch->pictures > 1 && room >= 2 * tiles;
  c->batch_band = !p->together ? c->band : room < tiles * scratch->pictures ? room : tiles * scratch->pictures;
  grow(&scratch->one, bsk_lay_winograd(c, v->i, shape->w, c->band).bytes);
  grow(&scratch->batch, bsk_lay_winograd(c, v->i, shape->w, c->batch_band).bytes);
  char *weights = (char *)bsk_take(b, (size_t)c->groups * c->group_bytes);
  uint8_t *pad_pixel = (uint8_t *)bsk_take(b, c->pixel_bytes);
  int32_t *base = (int32_t *)bsk_take(b, BSK_GROUP * sizeof(int32_t));
  c->weights = weights;
  c->pad_pixel = pad_pixel;
  c->base = base;
  if (!b->memory) return BSK_OK;
  memset(weights, 0, (size_t)c->groups * c->group_bytes);
  memset(pad_pixel, how->is_float ? 0 : (uint8_t)(int8_t)op->in.zero_point, c->pixel_bytes);
  memset(base, 0, BSK_GROUP * sizeof(int32_t));
  if (how->is_float)
    bsk_pack_points(v, how->m, (float *)(void *)weights);
  else
    bsk_pack_taps(op, v, (int8_t *)weights);
  return BSK_OK;
}

static bsk_status plan_grouped(bsk_block *b, const bsk_op *op, bsk_isa isa, const bsk_tensor *shape, bsk_plan_op *p) {
  const bsk_tensor *in = &op->in;
  const int real = in->dtype == BSK_F32, depthwise = in->c == op->groups && shape->c == op->groups;
  CHECK((real && op->weight_dtype == BSK_F32) || (in->dtype == BSK_I8 && op->weight_dtype == BSK_I8), "groups are for f32 and i8 inputs and weights");
  CHECK(in->c % op->groups == 0 && shape->c % op->groups == 0, "channels do not divide into the groups");
  const int64_t taps = (int64_t)op->kh * op->kw, inputs = in->c / op->groups, padded = (int64_t)bsk_groups(shape->c) * BSK_GROUP;
  CHECK(real || taps * inputs * 255 * 127 < (int64_t)1 << 31, "a convolution's accumulator could exceed int32");
  CHECK(taps * inputs * padded < BSK_MAX_TENSOR, "a convolution has too many weights");
  p->grouped.kernel = bsk_find_grouped(real ? BSK_F32 : BSK_I8, depthwise, isa);
  if (!p->grouped.kernel) return bsk_fail(BSK_ERR_ISA, "no kernel for this instruction set");
  p->name = p->grouped.kernel->name;
  const size_t count = (size_t)(taps * inputs * shape->c);
  if (!p->grouped.kernel->depthwise) {
    void *weights = bsk_take(b, count * (real ? 4 : 1));
    if (weights) memcpy(weights, op->weights, count * (real ? 4 : 1));
    p->grouped.weights = weights;
    return BSK_OK;
  }
  char *weights = (char *)bsk_take(b, (size_t)(taps * padded) * (real ? 4 : 2));
  p->grouped.weights = weights;
  if (!weights) return BSK_OK;
  memset(weights, 0, (size_t)(taps * padded) * (real ? 4 : 2));
  for (int64_t o = 0; o < shape->c; ++o)
    for (int64_t t = 0; t < taps; ++t) {
      if (real)
        ((float *)(void *)weights)[t * padded + o] = ((const float *)op->weights)[o * taps + t];
      else
        ((int16_t *)(void *)weights)[t * padded + o] = ((const int8_t *)op->weights)[o * taps + t];
    }
  return BSK_OK;
}

bsk_status bsk_plan_conv(bsk_block *b, const bsk_op *op, bsk_isa isa, const bsk_tensor *shape, bsk_plan_op *p, bsk_scratch *scratch) {
  const bsk_tensor *in = &op->in;
  bsk_conv_types types;
  CHECK(op->weights, "a convolution without weights");
  CHECK(op->kh >= 1 && op->kw >= 1 && op->kh <= BSK_MAX_KERNEL && op->kw <= BSK_MAX_KERNEL, "a kernel side is not in 1..255");
  CHECK(op->sh >= 1 && op->sw >= 1 && op->sh <= BSK_MAX_SIDE && op->sw <= BSK_MAX_SIDE, "a stride is not in 1..65536");
  CHECK(op->gap_h >= 0 && op->gap_w >= 0 && op->gap_h < BSK_MAX_DILATION && op->gap_w < BSK_MAX_DILATION, "a dilation is not in 1..32768");
  const int32_t reach_h = bsk_reach(op->kh, op->gap_h), reach_w = bsk_reach(op->kw, op->gap_w);
  CHECK(op->ph >= 0 && op->pw >= 0 && op->ph < BSK_MAX_KERNEL && op->pw < BSK_MAX_KERNEL, "a padding is not in 0..254");
  CHECK(reach_h <= in->h + 2 * op->ph && reach_w <= in->w + 2 * op->pw, "a kernel is larger than its padded picture");
  CHECK(shape->h == (in->h + 2 * op->ph - reach_h) / op->sh + 1 && shape->w == (in->w + 2 * op->pw - reach_w) / op->sw + 1,
        "a convolution's output has the wrong height or width");
  if (op->groups > 1) return plan_grouped(b, op, isa, shape, p);
  const int64_t inputs = (int64_t)op->kh * op->kw * in->c;
  if (in->dtype == BSK_BITS && op->weight_dtype == BSK_BITS) {
    types = BSK_CONV_BITS_W1;
    CHECK(op->pad_value >= -1 && op->pad_value <= 1, "the padding value of signs is not -1, 0 or 1");
  } else if (in->dtype == BSK_I8 && op->weight_dtype == BSK_BITS) {
    types = BSK_CONV_I8_W1;
  } else if (in->dtype == BSK_I8 && op->weight_dtype == BSK_I8) {
    types = BSK_CONV_I8_I8;
  } else if (in->dtype == BSK_F32 && op->weight_dtype == BSK_BITS) {
    types = BSK_CONV_F32_W1;
  } else if (in->dtype == BSK_F32 && op->weight_dtype == BSK_F32) {
    types = BSK_CONV_F32_F32;
  } else {
    return bsk_fail(BSK_ERR_UNSUPPORTED, "no convolution for these types of input and weights");
  }
  CHECK(in->dtype == BSK_F32 || bsk_largest_sum(op) < ((int64_t)1 << (in->dtype == BSK_BITS ? 30 : 31)), "a convolution's accumulator could exceed int32");
  CHECK(inputs * shape->c < BSK_MAX_TENSOR, "a convolution has too many weights");

  bsk_conv_plan *c = &p->conv;
  const bsk_weights_view v = bsk_view_of(op, shape->c);
  const bsk_conv_shape what = {in->c,
                               shape->c,
                               shape->h,
                               shape->w,
                               op->kh,
                               op->kw,
                               op->sh,
                               op->sw,
                               op->gap_h > 0 || op->gap_w > 0,
                               in->dtype == BSK_I8 ? bsk_largest_here(op, &v) : 0,
                               in->zero_point};
  c->kernel = bsk_find_conv(types, isa, &what);
  if (!c->kernel) return bsk_fail(BSK_ERR_ISA, "no kernel for this instruction set");
  p->name = c->kernel->name;
  if (c->kernel->special && c->kernel->special->winograd) return plan_winograd(b, op, &v, shape, p, scratch);
  const int per_step = packs[c->kernel->pack].inputs;
  const bsk_special *special = c->kernel->special;
  const int32_t steps = (int32_t)bsk_round_up((size_t)((in->c + per_step - 1) / per_step), special ? (size_t)special->step_align : 1); /* a pixel */
  c->groups = bsk_groups(shape->c);
  const int32_t run = (op->kw * in->c + per_step - 1) / per_step;
  c->flat = !special && !c->kernel->unpack && op->weight_dtype == BSK_I8 && op->gap_w == 0 && run < op->kw * steps;
  c->channels_padded = c->flat ? in->c : c->kernel->rows == BSK_ROWS_BITS || c->kernel->rows == BSK_ROWS_NIBBLES ? steps : steps * per_step;
  c->pixel_bytes = (size_t)c->channels_padded * row_element[c->kernel->rows];
  const size_t across = (size_t)op->gap_w + 1;
  c->row_bytes = c->pixel_bytes * (((size_t)in->w + 2 * (size_t)op->pw + across - 1) / across * across) + (c->flat ? 4 : 0);
  c->band = shape->h;
  if (c->kernel->rows == BSK_ROWS_TABLES) { /* 8 times the bytes of the input: a band of rows that stays in cache */
    const int64_t rows = TABLE_BYTES / (int64_t)c->row_bytes, most = (rows - reach_h) / op->sh + 1;
    if (most < c->band) c->band = most < 1 ? 1 : (int32_t)most;
    c->band = (shape->h + (shape->h + c->band - 1) / c->band - 1) / ((shape->h + c->band - 1) / c->band); /* even bands */
  }
  const size_t in_rows = c->band < shape->h ? (size_t)(c->band - 1) * (size_t)op->sh + (size_t)reach_h : (size_t)in->h + 2 * (size_t)op->ph;
  c->rows_bytes = c->row_bytes * in_rows;
  c->sums_bytes = c->kernel->rows == BSK_ROWS_TABLES ? (in_rows * bsk_sums_width(op) + (size_t)c->band * (size_t)shape->w) * sizeof(int32_t) : 0;
  c->marks_bytes = c->kernel->rows == BSK_ROWS_MARKED ? c->rows_bytes / BSK_MARKED + 8 : 0; /* they are read by eights */
  if (c->marks_bytes) c->most_sum = bsk_most_sum(&v);
  c->run = c->flat ? run : op->kw * steps;
  c->steps = (size_t)op->kh * (size_t)c->run;
  c->group_bytes = c->steps * packs[c->kernel->pack].packed;
  c->direct = !c->flat && op->ph == 0 && op->pw == 0 && op->gap_w == 0 &&
              ((c->kernel->rows == BSK_ROWS_F32) || (c->kernel->rows == BSK_ROWS_BITS && steps % 2 == 0) ||
               (c->kernel->rows == BSK_ROWS_I8 && in->c == c->channels_padded));
  size_t need = c->direct ? 0 : bsk_round_up(c->rows_bytes, BSK_ALIGN) + bsk_round_up(c->sums_bytes, BSK_ALIGN) + bsk_round_up(c->marks_bytes, BSK_ALIGN);
  if (special && shape->w % special->line != 0) {
    c->line_bytes = (size_t)op->kh * (size_t)c->run * (size_t)per_step * row_element[c->kernel->rows];
    need += bsk_round_up(((size_t)shape->h * (size_t)shape->w + (size_t)c->kernel->pixels) * c->line_bytes, BSK_ALIGN);
  }
  c->ready_bytes = c->steps * packs[c->kernel->pack].ready;
  if (c->kernel->unpack) need += bsk_round_up(c->ready_bytes * (size_t)(special && special->groups ? special->groups : 1), BSK_ALIGN);
  const size_t ready = (size_t)c->groups * c->ready_bytes; /* of all groups, for several pictures */
  p->together = scratch->pictures > 1 && c->kernel->unpack && (int64_t)shape->h * shape->w <= BATCH_PIXELS && ready <= BATCH_READY_BYTES;
  grow(&scratch->one, need);
  grow(&scratch->batch, need + (p->together ? bsk_round_up(ready, BSK_ALIGN) : 0));

  char *weights = (char *)bsk_take(b, (size_t)c->groups * c->group_bytes);
  uint8_t *pad_pixel = (uint8_t *)bsk_take(b, c->pixel_bytes);
  uint16_t *row_class = (uint16_t *)bsk_take(b, (size_t)shape->h * sizeof(uint16_t));
  uint16_t *col_class = (uint16_t *)bsk_take(b, (size_t)shape->w * sizeof(uint16_t));
  const int by_padding = in->dtype == BSK_BITS && op->pad_value == 0 && c->kernel->rows != BSK_ROWS_SIGNS;
  const int32_t row_classes = bsk_classify(row_class, shape->h, op->sh, op->ph, op->gap_h, op->kh, in->h, by_padding);
  c->col_classes = bsk_classify(col_class, shape->w, op->sw, op->pw, op->gap_w, op->kw, in->w, by_padding);
  int32_t *base =
      in->dtype == BSK_F32 ? NULL : (int32_t *)bsk_take(b, (size_t)row_classes * (size_t)c->col_classes * (size_t)c->groups * BSK_GROUP * sizeof(int32_t));
  c->weights = weights;
  c->pad_pixel = pad_pixel;
  c->row_class = row_class;
  c->col_class = col_class;
  c->base = base;
  if (!b->memory) return BSK_OK;

  bsk_pack_weights(&v, c, steps, weights);
  bsk_fill_pad_pixel(op, c, pad_pixel);
  c->pad_is_zero = 1;
  for (size_t i = 0; i < c->pixel_bytes; ++i) c->pad_is_zero &= pad_pixel[i] == 0;
  if (base) bsk_fill_base(op, &v, c, shape->h, shape->w, base);
  return BSK_OK;
}
