/* 3x3 convolutions by Winograd's filtering (kernels/winograd/winograd.h): a band of tiles is transformed, multiplied point by point
 * with the tile of the kernel, a group of channels at a time, transformed back and finished. */
#include "../kernels/winograd/winograd.h"
#include "finish.h"

/* V of tiles [first, last) of the output rows from y0 on, `across` tiles a row; V[point] is `stride` elements. */
static void transform_input(const bsk_plan_op *p, const char *in, char *v, size_t stride, int32_t first, int32_t last, int32_t across, int32_t y0) {
  const bsk_conv_plan *c = &p->conv;
  const bsk_tensor *t = &p->op.in;
  const struct bsk_winograd *how = c->kernel->special->winograd;
  const int32_t m = how->m, n = m + 2;
  const void *px[BSK_WINOGRAD_POINTS];
  for (int32_t tile = first; tile < last; ++tile) {
    const int32_t y = y0 + tile / across * m - p->op.ph, x = tile % across * m - p->op.pw;
    for (int32_t i = 0; i < n; ++i)
      for (int32_t j = 0; j < n; ++j) {
        const int inside = y + i >= 0 && y + i < t->h && x + j >= 0 && x + j < t->w;
        px[i * n + j] = inside ? in + ((size_t)(y + i) * (size_t)t->w + (size_t)(x + j)) * c->pixel_bytes : (const char *)c->pad_pixel;
      }
    how->input(v + (size_t)(tile - first) * (size_t)t->c * (how->is_float ? 4 : 2), stride, px, t->c, t->zero_point);
  }
}

void bsk_run_winograd(const bsk_plan_op *p, const place *at, int32_t y0, int32_t y1, const bsk_tensor *out) {
  const bsk_conv_plan *c = &p->conv;
  const struct bsk_winograd *how = c->kernel->special->winograd;
  const int32_t m = how->m, across = (out->w + m - 1) / m, tiles = across * ((y1 - y0 + m - 1) / m);
  const int pixels = c->kernel->pixels, points = (m + 2) * (m + 2);
  const size_t tile_bytes = (size_t)p->op.in.c * (how->is_float ? 4 : 2);
  const size_t padded = bsk_round_up((size_t)c->band, (size_t)pixels);
  char *v = at->scratch;
  int32_t *mm = (int32_t *)(void *)(v + bsk_round_up(c->rows_bytes, BSK_ALIGN));
  int32_t *acc = (int32_t *)(void *)((char *)mm + bsk_round_up(c->line_bytes, BSK_ALIGN));
  bsk_tile tile = {.kh = 1, .run = c->run, .groups = 1};
  for (int i = 0; i < pixels; ++i) tile.base[i] = c->base;
  for (int32_t first = 0; first < tiles; first += c->band) {
    const int32_t last = tiles - first < c->band ? tiles : first + c->band;
    transform_input(p, (const char *)read_at(at, &p->op.in), v, (size_t)c->band * (size_t)p->op.in.c, first, last, across, y0);
    for (int32_t g = 0; g < c->groups; ++g) {
      for (int point = 0; point < points; ++point) {
        tile.weights = (const char *)c->weights + ((size_t)point * (size_t)c->groups + (size_t)g) * c->group_bytes;
        const char *from = v + (size_t)point * (size_t)c->band * tile_bytes;
        for (int32_t t = 0; t < last - first; t += pixels) {
          tile.n = last - first - t < pixels ? last - first - t : pixels;
          for (int i = 0; i < pixels; ++i) tile.px[i] = from + (size_t)(t + (i < tile.n ? i : tile.n - 1)) * tile_bytes;
          c->kernel->run(&tile, mm + ((size_t)point * padded + (size_t)t) * BSK_GROUP);
        }
      }
      for (int32_t t = first; t < last;) { /* the tiles that stand side by side */
        const int32_t left = across - t % across, count = last - t < left ? last - t : left;
        const size_t row = (size_t)count * (size_t)m * BSK_GROUP;
        for (int32_t i = 0; i < count; ++i)
          how->output(acc + (size_t)i * (size_t)m * BSK_GROUP, row, mm + (size_t)(t - first + i) * BSK_GROUP, padded * BSK_GROUP);
        const int32_t y = y0 + t / across * m, x = t % across * m, width = out->w - x < count * m ? out->w - x : count * m;
        for (int32_t i = 0; i < m && y + i < y1; ++i) {
          bsk_epi_call call;
          aim(&call, p, at, out->c, g, (size_t)(y + i) * (size_t)out->w + (size_t)x, width);
          call.acc = acc + (size_t)i * row;
          call.acc_stride = BSK_GROUP;
          finish(p, &call, !how->is_float);
        }
        t += count;
      }
    }
  }
}
