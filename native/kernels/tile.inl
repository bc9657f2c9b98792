/* A convolution's tile that broadcasts: in each step 4 bytes of every pixel meet the vectors of weights of a pass. The accumulators have names,
 * because GCC 12 spills arrays of them. The including file defines these, which are forgotten at the end:
 *
 *   TILE                             the function
 *   PIXELS(X)                        X(0) X(1) ...
 *   VECTORS(X, p)                    X(p, a, 0) X(p, b, 1) ...: the accumulators of a pass, a##p and so on
 *   VECTOR, ELEMENT, LANES, PASS     their type, that of a lane, the lanes of one and of all of a pass
 *   START(p, lane)                   what one begins with, from `lane` on
 *   STORE(at, sum)                   to memory
 *   WEIGHTS(w)                       declares the weights of a step, which lie at `w`
 *   STEP(p)                          adds the products with the 4 bytes at x##p + 4 * i
 *   FOUR                             if defined: four steps at once, the same with w moved on
 */
void TILE(const bsk_tile *tile, void *acc) {
  const size_t run = (size_t)tile->run, row_bytes = tile->row_bytes;
  for (int pass = 0; pass < BSK_GROUP / PASS; ++pass) {
    const int first = PASS * pass;
#define BEGIN(p, sum, v) VECTOR sum##p = START(p, first + v * LANES);
#define DECLARE(p)  \
  VECTORS(BEGIN, p) \
  const char *x##p = (const char *)tile->px[p];
    PIXELS(DECLARE)
    const char *w = (const char *)tile->weights + 4 * first;
    for (int r = tile->kh; r > 0; --r) {
      size_t i = 0;
#ifdef FOUR
      for (; i + 4 <= run; i += 4) {
        FOUR
      }
#endif
      for (; i < run; ++i, w += 4 * BSK_GROUP) {
        WEIGHTS(w)
        PIXELS(STEP)
      }
#define NEXT_ROW(p) x##p += row_bytes;
      PIXELS(NEXT_ROW)
    }
    ELEMENT *out = (ELEMENT *)acc + first;
#define END(p, sum, v) STORE(out + p * BSK_GROUP + v * LANES, sum##p);
#define FINISH(p) VECTORS(END, p)
    PIXELS(FINISH)
  }
}
#undef BEGIN
#undef DECLARE
#undef NEXT_ROW
#undef END
#undef FINISH
#undef TILE
#undef PIXELS
#undef VECTORS
#undef VECTOR
#undef ELEMENT
#undef LANES
#undef PASS
#undef START
#undef STORE
#undef WEIGHTS
#undef STEP
#undef FOUR
