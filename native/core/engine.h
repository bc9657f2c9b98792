/* A program made ready to run: every operation with its kernels, repacked constants and geometry. */
#ifndef BSK_ENGINE_H
#define BSK_ENGINE_H
#include "dispatch.h"

typedef struct {
  const bsk_conv_kernel *kernel;
  const void *weights;       /* packed, `groups` x group_bytes */
  const int32_t *base;       /* [row class][column class][groups * BSK_GROUP], or NULL (float) */
  const uint16_t *row_class; /* a class an output row: which rows of the kernel read padding */
  const uint16_t *col_class;
  const uint8_t *pad_pixel;                  /* one padding pixel in the kernel's form, pixel_bytes long */
  size_t group_bytes, steps;                 /* of the packed weights of a group */
  size_t ready_bytes;                        /* of a group's weights as the tile reads them */
  size_t pixel_bytes, row_bytes, rows_bytes; /* of the padded rows in scratch */
  int32_t col_classes, groups, run, channels_padded;
  int32_t flat;        /* the taps of a kernel's row follow each other without padding; a step may hold inputs of two */
  size_t line_bytes;   /* all taps of a pixel side by side, or 0 where tiles read rows */
  size_t sums_bytes;   /* of channel sums: of the rows in scratch, then of the windows of a band (BSK_ROWS_TABLES), or 0 */
  size_t marks_bytes;  /* of the rows in scratch (BSK_ROWS_MARKED), or 0 */
  int32_t most_sum;    /* BSK_ROWS_MARKED: four inputs that sum to more are marked */
  int32_t band;        /* output rows whose input rows are in scratch at once; Winograd: tiles */
  int32_t batch_band;  /* Winograd: tiles of several pictures at once */
  int32_t by_groups;   /* Winograd: threads share the groups of output channels, not the rows */
  int32_t direct;      /* the input tensor already has the kernel's form: no copy */
  int32_t pad_is_zero; /* every byte of pad_pixel is 0 */
} bsk_conv_plan;

typedef struct {
  bsk_op op; /* the constants in it are dropped, except inside `epi_*`, `table`, `weights` below */
  const bsk_epi_kernels *epi;
  const bsk_plain_kernels *plain;
  bsk_conv_plan conv;
  bsk_epi_float epi_float;
  bsk_epi_threshold epi_threshold;
  bsk_epi_integer epi_integer;
  struct {
    const bsk_grouped_kernel *kernel; /* NULL for one group */
    const void *weights;              /* depthwise: [tap][channel, padded to whole groups], else as in the file */
  } grouped;
  const struct bsk_simple_op *simple; /* for kinds from BSK_OP_SIMPLE */
  const uint8_t *table;
  const int8_t *fc_weights; /* (O, I) as int8, also for w1 */
  int32_t together;         /* several pictures share what is made ready from the weights */
  int32_t rows;             /* output rows, or what else threads share: Winograd's rows of tiles or groups of channels */
  const char *name;
} bsk_plan_op;

struct bsk_engine {
  size_t n_ops;
  bsk_plan_op *ops;
};

/* Where Winograd's V, M, U and finished tiles lie in scratch while bands of so many tiles run. */
typedef struct {
  size_t v_apart, m_apart, u_apart; /* from point to point */
  size_t m, u, acc, bytes;          /* offsets (V's is 0) and the end */
} bsk_winograd_layout;
bsk_winograd_layout bsk_lay_winograd(const bsk_conv_plan *c, int32_t channels, int32_t out_w, int32_t band);

/* Pixels from the first tap of a kernel to its last, both included. */
BSK_INLINE int32_t bsk_reach(int32_t kernel, int32_t gap) { return (gap + 1) * (kernel - 1) + 1; }
BSK_INLINE int32_t bsk_groups(int32_t channels) { return (channels + BSK_GROUP - 1) / BSK_GROUP; }
BSK_INLINE size_t bsk_words64(int32_t channels) { return ((size_t)channels + 63) / 64; }
/* int32 of a padded row: the channel sums of its pixels, then the largest sum of 32 channels of any. */
BSK_INLINE size_t bsk_sums_width(const bsk_op *op) { return (size_t)op->in.w + 2 * (size_t)op->pw + 1; }
BSK_INLINE size_t bsk_round_up(size_t value, size_t unit) { return (value + unit - 1) / unit * unit; }
#endif
