/*
 * What a test run might do: send 2,000 messages through System V queues. `workload clean` receives them
 * again; `workload leak` forgets to, and the kernel keeps them for ever, whoever sent them having ended.
 * Both leave the last state of a status queue behind, which is meant (see kleak.toml).
 */
#include <stdio.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/msg.h>

enum { MESSAGES = 2000, IN_A_QUEUE = 30, TEXT = 400, STATES = 3 };

struct message {
	long type;
	char text[TEXT];
};

static int fail(const char *what)
{
	perror(what);
	return 1;
}

/* Bytes of text in a queue are limited (kernel.msgmnb), hence more than one. */
static int talk(int receive)
{
	struct message message = {.type = 1};
	for (int sent = 0; sent < MESSAGES; sent += IN_A_QUEUE) {
		int queue = msgget(IPC_PRIVATE, 0600);
		if (queue < 0)
			return fail("msgget");
		for (int i = 0; i < IN_A_QUEUE; i++)
			if (msgsnd(queue, &message, TEXT, 0) < 0)
				return fail("msgsnd");
		if (receive && msgctl(queue, IPC_RMID, NULL) < 0)
			return fail("msgctl");
	}
	return 0;
}

static int keep_status(void)
{
	struct message message = {.type = 1};
	int queue = msgget(IPC_PRIVATE, 0600);
	if (queue < 0)
		return fail("msgget");
	for (int i = 0; i < STATES; i++)
		if (msgsnd(queue, &message, TEXT, 0) < 0)
			return fail("msgsnd");
	return 0;
}

int main(int argc, char **argv)
{
	int leak = argc == 2 && strcmp(argv[1], "leak") == 0;
	if (!leak && !(argc == 2 && strcmp(argv[1], "clean") == 0)) {
		fprintf(stderr, "usage: workload leak|clean\n");
		return 2;
	}
	return talk(!leak) || keep_status();
}
