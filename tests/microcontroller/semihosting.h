/* Files of the machine that emulates, by calls that ARM and RISC-V share. Include after semihost(). */
int open_file(const char *name, int for_writing) {
    size_t length = 0;
    while (name[length]) length++;
    uintptr_t arguments[3] = {(uintptr_t)name, for_writing ? 5 : 1, length}; /* "wb", "rb" */
    return (int)semihost(0x01, arguments);
}

int read_file(int handle, void *bytes, size_t n) {
    uintptr_t arguments[3] = {(uintptr_t)handle, (uintptr_t)bytes, n};
    return semihost(0x06, arguments) == 0; /* how many were not read */
}

int write_file(int handle, const void *bytes, size_t n) {
    uintptr_t arguments[3] = {(uintptr_t)handle, (uintptr_t)bytes, n};
    return semihost(0x05, arguments) == 0;
}

static void leave(int status) {
    uintptr_t arguments[2] = {0x20026, (uintptr_t)status}; /* the application's own exit */
    semihost(0x20, arguments);
    for (;;) {}
}

extern uint32_t data_image[], data_start[], data_end[], zero_start[], zero_end[], stack_limit[];

static void prepare_memory(void) {
    for (uint32_t *to = data_start, *from = data_image; to < data_end;) *to++ = *from++;
    for (uint32_t *to = zero_start; to < zero_end;) *to++ = 0;
}

uint32_t *stack_end(void) { return stack_limit; }
