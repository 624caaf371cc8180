// A plugin of QEMU (qemu-user 7.2) that counts the instructions which a program executes: out=FILE has them.
//
// The few lines of QEMU's plugin interface, version 1, that it needs are declared here: Debian ships no header.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
enum qemu_plugin_op { QEMU_PLUGIN_INLINE_ADD_U64 };
typedef void (*translated)(qemu_plugin_id_t id, struct qemu_plugin_tb *block);
typedef void (*ended)(qemu_plugin_id_t id, void *given);

size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id, translated call);
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *block, enum qemu_plugin_op op, void *counter,
                                              uint64_t added);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t id, ended call, void *given);

int qemu_plugin_version = 1;

static uint64_t executed;
static char path[4096];

static void on_block(qemu_plugin_id_t id, struct qemu_plugin_tb *block) {
  (void)id;
  qemu_plugin_register_vcpu_tb_exec_inline(block, QEMU_PLUGIN_INLINE_ADD_U64, &executed,
                                           qemu_plugin_tb_n_insns(block));
}

static void on_end(qemu_plugin_id_t id, void *given) {
  (void)id;
  (void)given;
  FILE *file = fopen(path, "w");
  if (file) {
    fprintf(file, "%" PRIu64 "\n", executed);
    fclose(file);
  }
}

int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int count, char **words) {
  (void)info;
  if (count != 1 || strncmp(words[0], "out=", 4) || strlen(words[0]) - 4 >= sizeof path) return -1;
  strcpy(path, words[0] + 4);
  qemu_plugin_register_vcpu_tb_trans_cb(id, on_block);
  qemu_plugin_register_atexit_cb(id, on_end, NULL);
  return 0;
}
