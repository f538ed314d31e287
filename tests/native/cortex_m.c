/* Start of a program on a Cortex-M with an FPU: the stack, the FPU switched on, then newlib. */
#include <stdint.h>

extern void _start(void);

static void reset(void) {
  *(volatile uint32_t *)0xE000ED88u |= 0xFu << 20; /* CPACR: full access to the FPU */
  __asm__ volatile("dsb\n\tisb");
  _start();
}

static void fault(void) {
  for (;;) __asm__ volatile("bkpt 0");
}

__attribute__((section(".vectors"))) const uintptr_t vectors[] = {0x00400000u, (uintptr_t)reset, (uintptr_t)fault,
                                                                  (uintptr_t)fault};
