/* Sizes of what kernels read: packed weights and rows. */
#ifndef BSK_PACKS_H
#define BSK_PACKS_H
#include "../kernels/kernel.h"

static const struct {
  int inputs;    /* of a step */
  size_t packed; /* bytes of a step of one group at rest */
  size_t ready;  /* bytes of a step as the tile reads it */
} packs[] = {
    [BSK_PACK_BITS] = {32, 4 * BSK_GROUP, 4 * BSK_GROUP},   [BSK_PACK_I8] = {4, 4 * BSK_GROUP, 4 * BSK_GROUP},
    [BSK_PACK_I16] = {2, 4 * BSK_GROUP, 4 * BSK_GROUP},     [BSK_PACK_F32] = {1, 4 * BSK_GROUP, 4 * BSK_GROUP},
    [BSK_PACK_NIBBLES] = {4, BSK_GROUP, BSK_GROUP},         [BSK_PACK_SUBSETS] = {8, BSK_GROUP, 2 * BSK_GROUP},
    [BSK_PACK_I8_WIDE] = {8, 8 * BSK_GROUP, 8 * BSK_GROUP}, [BSK_PACK_MASK_I8_WIDE] = {8, BSK_GROUP, 8 * BSK_GROUP},
    [BSK_PACK_MASK_I8] = {4, BSK_GROUP / 2, 4 * BSK_GROUP}, [BSK_PACK_MASK_F32] = {1, BSK_GROUP / 8, 4 * BSK_GROUP},
};
static const size_t row_element[] = {[BSK_ROWS_BITS] = 4,    [BSK_ROWS_U8] = 1,    [BSK_ROWS_I16] = 2,    [BSK_ROWS_I8] = 1,    [BSK_ROWS_F32] = 4,
                                     [BSK_ROWS_NIBBLES] = 1, [BSK_ROWS_SIGNS] = 1, [BSK_ROWS_TABLES] = 8, [BSK_ROWS_MARKED] = 1};
#endif
