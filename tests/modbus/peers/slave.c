/* A Modbus slave on libmodbus: 200 of each table, register n holds n, bit n is set where n is divisible by 3.
 * usage: slave tcp PORT | slave rtu DEVICE BAUD UNIT */
#include <modbus.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int count, char **arguments) {
    uint8_t query[MODBUS_TCP_MAX_ADU_LENGTH];
    modbus_t *context;
    int listener = -1;
    if (count < 3) return 2;
    int tcp = strcmp(arguments[1], "tcp") == 0;
    if (tcp) {
        context = modbus_new_tcp("127.0.0.1", atoi(arguments[2]));
    } else {
        context = modbus_new_rtu(arguments[2], atoi(arguments[3]), 'N', 8, 1);
        modbus_set_slave(context, atoi(arguments[4]));
    }
    modbus_mapping_t *map = modbus_mapping_new(200, 200, 200, 200);
    for (int n = 0; n < 200; n++) {
        map->tab_registers[n] = n;
        map->tab_input_registers[n] = n;
        map->tab_bits[n] = n % 3 == 0;
        map->tab_input_bits[n] = n % 3 == 0;
    }
    if (tcp) {
        listener = modbus_tcp_listen(context, 4);
        if (listener < 0) { perror("listen"); return 1; }
    } else if (modbus_connect(context) < 0) { perror("connect"); return 1; }
    puts("ready");
    fflush(stdout);
    for (;;) {
        if (tcp && modbus_tcp_accept(context, &listener) < 0) return 1;
        for (;;) {
            int length = modbus_receive(context, query);
            if (length < 0 && tcp) break;
            if (length > 0 && modbus_reply(context, query, length, map) < 0 && tcp) break;
        }
        modbus_close(context);
    }
}
