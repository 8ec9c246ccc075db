/* How images lie in the workspaces, so that a convolution of any stride is one loop over contiguous floats.
 *
 * A padded channel is split into its stride_h x stride_w phases, each a plane of rows of `row` floats; there the tap
 * (kh, kw) of output position p = oh * row + ow is found at p + (kh / stride_h) * row + kw / stride_w. The zeros at the
 * end of a row are those before the next one. What is computed between the rows is dropped.
 *
 * A plane holds several images: `stack` of them one below the other, or `lanes` of them interleaved (each position is
 * `lanes` floats). The gradient of the output lies in planes of the same form, `lead` rows and columns from their start.
 */
#ifndef FLASH_PL_GEOMETRY_H
#define FLASH_PL_GEOMETRY_H

#include <stdint.h>

typedef struct {
    int64_t channels, height, width;          /* of the input */
    int64_t outputs, out_height, out_width;   /* of the output */
    int64_t stride_h, stride_w, pad_h, pad_w;
    int64_t reach_h, reach_w;                 /* (kernel - 1) / stride */
    int64_t trim_h, trim_w;                   /* rows and columns of the padded input whose gradient nobody asks for */
    int64_t lead_h, lead_w;                   /* reach - trim */
    int64_t row, rows;                        /* positions from row to row, rows from image to image of a stack */
    int64_t stack, lanes;                     /* images of a plane; one of the two is 1 */
    int64_t plane;                            /* floats of a plane */
    int64_t out_plane, in_plane;              /* floats of a computed plane of the output, of the input's gradient */
} geometry;

#endif
