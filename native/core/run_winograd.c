/* 3x3 convolutions by Winograd's filtering (kernels/winograd/winograd.h): a band of tiles is transformed, multiplied point by point
 * with the tile of the kernel, a group of channels at a time, transformed back and finished. */
#include "../kernels/winograd/winograd.h"
#include "finish.h"

bsk_winograd_layout bsk_lay_winograd(const bsk_conv_plan *c, int32_t channels, int32_t out_w, int32_t band) {
  const struct bsk_winograd *how = c->kernel->special->winograd;
  const size_t points = (size_t)how->n * (size_t)how->n, m = (size_t)how->m, across = ((size_t)out_w + m - 1) / m;
  const size_t tiles = bsk_round_up((size_t)band, (size_t)c->kernel->pixels), segment = across < (size_t)band ? across : (size_t)band;
  bsk_winograd_layout at;
  at.v_apart = BSK_WINOGRAD_APART((size_t)band * (size_t)channels * (how->is_float ? 4 : 2));
  at.m_apart = BSK_WINOGRAD_APART(tiles * BSK_GROUP * 4);
  at.u_apart = how->expand ? BSK_WINOGRAD_APART(c->ready_bytes) : c->ready_bytes;
  at.m = bsk_round_up(points * at.v_apart, BSK_ALIGN);
  at.u = at.m + bsk_round_up(points * at.m_apart, BSK_ALIGN);
  at.acc = at.u + (how->expand ? 2 * (size_t)how->own * at.u_apart : 0);
  at.bytes = at.acc + m * m * segment * BSK_GROUP * 4;
  return at;
}

/* Tiles of one picture's part of the output. */
typedef struct {
  int32_t across, each; /* of a row, of a picture */
  int32_t y0;           /* of its first output row */
} tiling;

/* V of tiles [first, last) of all pictures; V[point] is `stride` elements. */
static void transform_input(const bsk_plan_op *p, const place *at, const tiling *tiles, char *v, size_t stride, int32_t first, int32_t last) {
  const bsk_conv_plan *c = &p->conv;
  const bsk_tensor *t = &p->op.in;
  const struct bsk_winograd *how = c->kernel->special->winograd;
  const int32_t n = how->n, step = how->m * how->stride;
  const void *px[BSK_WINOGRAD_POINTS];
  for (int32_t tile = first; tile < last; ++tile) {
    const int32_t own = tile % tiles->each; /* within its picture */
    const char *in = (const char *)read_at(at, t) + (size_t)(tile / tiles->each) * at->arena_step;
    const int32_t y = tiles->y0 * how->stride + own / tiles->across * step - p->op.ph, x = own % tiles->across * step - p->op.pw;
    for (int32_t i = 0; i < n; ++i)
      for (int32_t j = 0; j < n; ++j) {
        const int inside = y + i >= 0 && y + i < t->h && x + j >= 0 && x + j < t->w;
        px[i * n + j] = inside ? in + ((size_t)(y + i) * (size_t)t->w + (size_t)(x + j)) * c->pixel_bytes : (const char *)c->pad_pixel;
      }
    how->input(v + (size_t)(tile - first) * (size_t)t->c * (how->is_float ? 4 : 2), stride, px, t->c, t->zero_point);
  }
}

/* M of one point of one group for `count` tiles. */
static void multiply(const bsk_conv_kernel *kernel, bsk_tile *tile, const char *v, size_t tile_bytes, int32_t count, int32_t *mm) {
  const int32_t calls = (count + kernel->pixels - 1) / kernel->pixels, most = (count + calls - 1) / calls; /* even ones */
  for (int32_t t = 0; t < count; t += tile->n, mm += (size_t)tile->n * BSK_GROUP) {
    tile->n = count - t < most ? count - t : most;
    for (int i = 0; i < kernel->pixels; ++i) tile->px[i] = v + (size_t)(t + (i < tile->n ? i : tile->n - 1)) * tile_bytes;
    kernel->run(tile, mm);
  }
}

void bsk_run_winograd(const bsk_plan_op *p, const place *at, int32_t begin, int32_t end, const bsk_tensor *out) {
  const bsk_conv_plan *c = &p->conv;
  const struct bsk_winograd *how = c->kernel->special->winograd;
  const int32_t m = how->m, n = how->n, own = how->own, across = (out->w + m - 1) / m;
  const int32_t y0 = c->by_groups ? 0 : begin * m, y1 = c->by_groups || end * m > out->h ? out->h : end * m;
  const int32_t g0 = c->by_groups ? begin : 0, g1 = c->by_groups ? end : c->groups;
  const tiling each = {across, across * ((y1 - y0 + m - 1) / m), y0};
  const int32_t tiles = each.each * at->count, most = at->count > 1 ? c->batch_band : c->band;
  const int32_t bands = (tiles + most - 1) / most, band = (tiles + bands - 1) / bands;
  const size_t tile_bytes = (size_t)p->op.in.c * (how->is_float ? 4 : 2);
  const bsk_winograd_layout lay = bsk_lay_winograd(c, p->op.in.c, out->w, band);
  char *v = at->scratch, *u = v + lay.u;
  int32_t *mm = (int32_t *)(void *)(v + lay.m), *acc = (int32_t *)(void *)(v + lay.acc);
  const size_t m_apart = lay.m_apart / 4;
  bsk_tile tile = {.kh = 1, .run = c->run, .groups = 1};
  for (int i = 0; i < c->kernel->pixels; ++i) tile.base[i] = c->base;
  for (int32_t first = 0; first < tiles; first += band) {
    const int32_t last = tiles - first < band ? tiles : first + band, count = last - first;
    transform_input(p, at, &each, v, lay.v_apart / (how->is_float ? 4 : 2), first, last);
    for (int32_t g = g0; g < g1; ++g) {
      const char *weights = (const char *)c->weights + (size_t)g * c->group_bytes;
      for (int part = 0; part < how->parts; ++part) {
        if (how->expand) how->expand(u, lay.u_apart, weights, (size_t)c->run, part);
        for (int which = 0; which < 2; ++which)
          for (int row = how->rows[part][which]; row < n; row = row == own - 1 && row + 1 < n ? row + 1 : n) /* a last U serves two rows */
            for (int col = 0; col < n; ++col) {
              const int point = row * n + col, same = which * own + (col < own ? col : own - 1);
              tile.weights = how->expand ? u + (size_t)same * lay.u_apart : weights + (size_t)point * lay.u_apart;
              multiply(c->kernel, &tile, v + (size_t)point * lay.v_apart, tile_bytes, count, mm + (size_t)point * m_apart);
            }
      }
      for (int32_t t = first; t < last;) { /* the tiles that stand side by side */
        const int32_t inside = t % each.each, left = across - inside % across, beside = last - t < left ? last - t : left;
        const size_t row = (size_t)beside * (size_t)m * BSK_GROUP;
        for (int32_t i = 0; i < beside; ++i) how->output(acc + (size_t)i * (size_t)m * BSK_GROUP, row, mm + (size_t)(t - first + i) * BSK_GROUP, m_apart);
        const int32_t y = y0 + inside / across * m, x = inside % across * m, width = out->w - x < beside * m ? out->w - x : beside * m;
        place picture = *at;
        picture.arena += (size_t)(t / each.each) * at->arena_step;
        for (int32_t i = 0; i < m && y + i < y1; ++i) {
          bsk_epi_call call;
          aim(&call, p, &picture, out->c, g, (size_t)(y + i) * (size_t)out->w + (size_t)x, width);
          call.acc = acc + (size_t)i * row;
          call.acc_stride = BSK_GROUP;
          finish(p, &call, !how->is_float);
        }
        t += beside;
      }
    }
  }
}
