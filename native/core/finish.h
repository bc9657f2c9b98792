/* Where tensors lie while an operation runs, and how its accumulators become outputs. */
#ifndef BSK_FINISH_H
#define BSK_FINISH_H
#include "engine.h"

typedef struct {
  const uint8_t *image;
  char *arena, *scratch;
  int32_t count;     /* pictures; above 1 only where the operation runs them together, `arena` is the first one's */
  size_t arena_step; /* bytes from picture to picture */
  const char *ready; /* all groups' unpacked weights, or NULL */
} place;

BSK_INLINE const void *read_at(const place *at, const bsk_tensor *t) {
  return t->offset <= BSK_AT_INPUT ? (const void *)(at->image + (BSK_AT_INPUT - t->offset)) : t->offset == BSK_AT_NONE ? NULL : at->arena + t->offset;
}
BSK_INLINE void *write_at(const place *at, const bsk_tensor *t) { return t->offset == BSK_AT_NONE ? NULL : at->arena + t->offset; }

/* ---- Elementwise parts: `n` pixels of one group go through the epilogue -------------------------------------------- */

/* Everything of a call that depends only on the pixel and the group; `acc` is set by who computes it. */
BSK_INLINE void aim(bsk_epi_call *c, const bsk_plan_op *p, const place *at, int32_t channels, int32_t group, size_t pixel, int n) {
  const size_t first = pixel * (size_t)channels + (size_t)group * BSK_GROUP;
  const bsk_op *op = &p->op;
  const int lanes = channels - group * BSK_GROUP;
  c->n = n;
  c->group = group;
  c->lanes = lanes < BSK_GROUP ? lanes : BSK_GROUP;
  c->residual_stride = c->out_stride = (size_t)channels;
  c->bits_stride = 2 * bsk_words64(channels);
  const char *residual = (const char *)read_at(at, &op->residual);
  c->residual = residual ? residual + first * (op->residual.dtype == BSK_F32 ? 4 : 1) : NULL;
  float *f32 = (float *)write_at(at, &op->out_f32);
  c->f32 = f32 ? f32 + first : NULL;
  int8_t *i8 = (int8_t *)write_at(at, &op->out_i8);
  c->i8 = i8 ? i8 + first : NULL;
  uint32_t *bits = (uint32_t *)write_at(at, &op->out_bits);
  c->bits = bits ? bits + pixel * c->bits_stride + (size_t)group : NULL;
}

BSK_INLINE void finish(const bsk_plan_op *p, const bsk_epi_call *c, int integer_acc) {
  if (p->op.epi.kind == BSK_EPI_THRESHOLD)
    p->epi->threshold(&p->epi_threshold, c);
  else if (p->op.epi.kind == BSK_EPI_INTEGER)
    p->epi->integer(&p->epi_integer, c);
  else if (integer_acc)
    p->epi->from_i32(&p->epi_float, c);
  else
    p->epi->from_f32(&p->epi_float, c);
  /* An odd number of groups leaves the upper half of the last 64-bit word: it holds unused bits, which are 0. */
  if (c->bits && c->group % 2 == 0 && (size_t)(c->group + 1) * BSK_GROUP >= c->out_stride)
    for (int i = 0; i < c->n; ++i) c->bits[(size_t)i * c->bits_stride + 1] = 0;
}

/* Operations with files of their own. */
void bsk_run_grouped(const bsk_plan_op *p, const place *at, int32_t y0, int32_t y1, const bsk_tensor *out);

/* Operations that need nothing made ready but an epilogue and a table of 256 bytes: a row each in simple_ops.c, no other
 * line in C. `check` says what is wrong with one, or NULL; `run` computes output rows [y0, y1). */
struct bsk_simple_op {
  int32_t op; /* bsk_file_op */
  const char *name;
  const char *(*check)(const bsk_op *op, const bsk_tensor *out);
  void (*run)(const bsk_plan_op *p, const place *at, int32_t y0, int32_t y1, const bsk_tensor *out);
};
const struct bsk_simple_op *bsk_find_simple(int32_t kind); /* NULL where there is none */

void bsk_run_winograd(const bsk_plan_op *p, const place *at, int32_t y0, int32_t y1, const bsk_tensor *out);
#endif
