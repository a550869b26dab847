/* SPDX-License-Identifier: GPL-2.0 */
/* Arithmetic under rounding modes, by two threads: rounding SECONDS random|interval|phases|once|none.
 * random: whichever mode random data names, the way RandomX does it; it computes nothing of use. */
#include <err.h>
#include <fenv.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const int modes[] = {FE_TONEAREST, FE_DOWNWARD, FE_UPWARD, FE_TOWARDZERO};
static const char *kind;
static double seconds;

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec * 1e-9;
}

static int mode_at(unsigned step, unsigned random, double elapsed)
{
	if (!strcmp(kind, "random"))
		return modes[random >> 16 & 3];
	if (!strcmp(kind, "interval"))
		return step & 1 ? FE_UPWARD : FE_DOWNWARD;
	if (!strcmp(kind, "phases")) /* a test of arithmetic: every mode, one after the other */
		return modes[(int)(elapsed * 4 / seconds) & 3];
	return strcmp(kind, "once") ? FE_TONEAREST : FE_TOWARDZERO;
}

static void *work(void *unused)
{
	double began = now(), elapsed = 0;
	volatile double value = 1;
	unsigned random = 1;

	for (unsigned step = 0; elapsed < seconds; step++) {
		random = random * 1103515245 + 12345;
		fesetround(mode_at(step, random, elapsed));
		for (int i = 0; i < 100; i++)
			value = value / 3 + 1;
		if (step % 256 == 0)
			elapsed = now() - began;
	}
	return unused;
}

int main(int count, char **arguments)
{
	pthread_t thread;

	if (count != 3)
		errx(2, "rounding SECONDS random|interval|phases|once|none");
	seconds = atof(arguments[1]);
	kind = arguments[2];
	if (pthread_create(&thread, NULL, work, NULL))
		errx(1, "no thread");
	work(NULL);
	return pthread_join(thread, NULL);
}
