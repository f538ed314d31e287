// The oldest names that glibc has for what it renewed in 2.29 and 2.34, so that one library loads from 2.28 on
// (the wheels' manylinux_2_28), whatever glibc it was linked with. The build puts this before every source.
#pragma once

#if defined(__has_include)
#if __has_include(<features.h>)
#include <features.h>
#endif
#endif

#if defined(__GLIBC__) && defined(__x86_64__)
#define EXPORTABLE_LOSSES_GLIBC "GLIBC_2.2.5"
#elif defined(__GLIBC__) && defined(__aarch64__)
#define EXPORTABLE_LOSSES_GLIBC "GLIBC_2.17"
#endif

#ifdef EXPORTABLE_LOSSES_GLIBC
__asm__(".symver log,log@" EXPORTABLE_LOSSES_GLIBC);
__asm__(".symver dladdr,dladdr@" EXPORTABLE_LOSSES_GLIBC);
__asm__(".symver dlopen,dlopen@" EXPORTABLE_LOSSES_GLIBC);
__asm__(".symver dlsym,dlsym@" EXPORTABLE_LOSSES_GLIBC);
#endif
