/* acc = base - 2 * popcount(activation xor weight): signs x signs, 32 inputs a step.
 *
 * 1. A product of signs is an exclusive or of bits; with n inputs and d differing bits the sum is n - 2 d.
 * 2. base[lane] holds n and what padding adds for the border class of the pixel.
 * 3. d <= KH*KW*I, which the validator keeps far below 2^30.
 */
#ifndef BSK_CONV_BITS_W1_H
#define BSK_CONV_BITS_W1_H
#include "../variants.h"
#endif
