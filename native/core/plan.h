/* What the files that make an engine share: the caller's block, failures, and weights as the file has them. */
#ifndef BSK_PLAN_H
#define BSK_PLAN_H
#include "finish.h"

#define BSK_MAX_TENSOR ((int64_t)1 << 40) /* bytes of a tensor, elements of weights: below it */

bsk_status bsk_fail(bsk_status status, const char *message);
#define CHECK(condition, message)                                 \
  do {                                                            \
    if (!(condition)) return bsk_fail(BSK_ERR_ARGUMENT, message); \
  } while (0)

/* The caller's block, handed out in aligned pieces. */
typedef struct {
  char *memory; /* NULL: count only */
  size_t used;
} bsk_block;
void *bsk_take(bsk_block *b, size_t bytes);

/* Weights in the file's order (O, KH, KW, I). */
typedef struct {
  int32_t o, kh, kw, i;
  const void *data;
  size_t tap_bits; /* w1: from tap to tap */
} bsk_weights_view;
bsk_weights_view bsk_view_of(const bsk_op *op, int32_t outputs);
int bsk_weight_negative(const bsk_weights_view *v, int32_t o, int32_t r, int32_t s, int32_t i); /* w1; 0 beyond the last */
size_t bsk_weight_at(const bsk_weights_view *v, int32_t o, int32_t r, int32_t s, int32_t i);    /* the element's number */

/* pack.c */
int64_t bsk_largest_sum(const bsk_op *op);
int64_t bsk_largest_here(const bsk_op *op, const bsk_weights_view *v);
int32_t bsk_classify(uint16_t *classes, int32_t n, int32_t stride, int32_t pad, int32_t gap, int32_t kernel, int32_t side, int by_padding);
int32_t bsk_most_sum(const bsk_weights_view *v);
void bsk_pack_weights(const bsk_weights_view *v, const bsk_conv_plan *c, int32_t steps, char *to);
void bsk_pack_taps(const bsk_op *op, const bsk_weights_view *v, int8_t *to);
void bsk_pack_points(const bsk_weights_view *v, int m, float *to);
void bsk_fill_base(const bsk_op *op, const bsk_weights_view *v, const bsk_conv_plan *c, int32_t oh, int32_t ow, int32_t *base);
void bsk_fill_pad_pixel(const bsk_op *op, const bsk_conv_plan *c, uint8_t *pixel);

/* Scratch that grows to what an operation needs: for a picture, and for `pictures` together where they gain. */
typedef struct {
  size_t one, batch;
  int32_t pictures;
} bsk_scratch;

/* plan_conv.c; `shape` is that of the outputs. */
bsk_status bsk_plan_conv(bsk_block *b, const bsk_op *op, bsk_isa isa, const bsk_tensor *shape, bsk_plan_op *p, bsk_scratch *scratch);

BSK_INLINE int present(const bsk_tensor *t) { return t->offset != BSK_AT_NONE; }
BSK_INLINE int same_shape(const bsk_tensor *a, const bsk_tensor *b) { return a->h == b->h && a->w == b->w && a->c == b->c; }
#endif
