/* Run the networks of network.h on the inputs in in.bin: outputs to out.bin, costs to cost.bin. */
#include "board.h"
#include "network.h" /* written by microcontrollers.py */

#define PAINT 0xA5A5A5A5u

static uint32_t since(uint32_t start) { return (ticks() - start) & CLOCK_MASK; }

int main(void) {
    int in = open_file("in.bin", 0), out = open_file("out.bin", 1), costs = open_file("cost.bin", 1);
    if (in < 0 || out < 0 || costs < 0) return 2;
    uint32_t start = ticks(), reading = since(start), known;
    start = ticks();
    run_known_instructions();
    known = since(start) - reading;
    if (!write_file(costs, &known, sizeof known)) return 2;
    for (unsigned k = 0; k < sizeof networks / sizeof *networks; k++) {
        const struct network *net = &networks[k];
        void *x = MEMORY(input_memory, net->input_bytes);
        float *y = MEMORY(output_memory, net->output_bytes);
        void *arena = MEMORY(arena_memory, net->arena_bytes);
        uint32_t *bottom = stack_end(), *top = stack_pointer();
        struct {
            uint32_t least, most, stack, arena; /* ticks of one inference, bytes */
        } cost = {~0u, 0, 0, net->arena_bytes};
        *(volatile char *)arena = 0; /* so that it is there in a program without the network too */
        if (bottom) /* here, since a function that painted would paint its own frame */
            for (volatile uint32_t *p = bottom; p < top; p++) *p = PAINT;
        for (uint32_t i = 0; i < net->examples; i++) {
            if (!read_file(in, x, net->input_bytes)) return 3;
            start = ticks();
            net->infer(x, y, arena);
            uint32_t spent = since(start) - reading;
            if (spent < cost.least) cost.least = spent;
            if (spent > cost.most) cost.most = spent;
            if (!write_file(out, y, net->output_bytes)) return 4;
        }
        while (bottom && bottom < top && *bottom == PAINT) bottom++;
        cost.stack = (uint32_t)((char *)top - (char *)bottom);
        if (!write_file(costs, &cost, sizeof cost)) return 5;
        RELEASE(x), RELEASE(y), RELEASE(arena);
    }
    return 0;
}
