"""A Modbus master on pymodbus (3.0 as Debian has it, or newer): asks unit 9 for every function and fails where an answer
is not right. The unit has holding registers 0 to 7, inputs 0 and 1 holding 100 and 200, coils 0 to 3, discrete inputs 0
(off) and 1 (on), and an identity.

usage: pymodbus_master.py tcp|rtu-over-tcp PORT
"""

import struct
import sys

from pymodbus.client import ModbusTcpClient

try:  # 3.0
    from pymodbus.mei_message import ReadDeviceInformationRequest
    from pymodbus.transaction import ModbusRtuFramer, ModbusSocketFramer

    FRAMERS, UNIT = {"tcp": ModbusSocketFramer, "rtu-over-tcp": ModbusRtuFramer}, "slave"
    OLD = True
except ImportError:  # 3.11 and newer
    from pymodbus import FramerType

    FRAMERS, UNIT = {"tcp": FramerType.SOCKET, "rtu-over-tcp": FramerType.RTU}, "device_id"
    OLD = False


def good(answer):
    assert not answer.isError(), answer
    return answer


def swapped(number):
    high, low = struct.unpack(">HH", struct.pack(">f", number))
    return [low, high]


def main(kind, port):
    client = ModbusTcpClient("127.0.0.1", port=port, framer=FRAMERS[kind], timeout=3)
    assert client.connect()
    unit = {UNIT: 9}
    # 3.0 hands these two to a class that calls it otherwise.
    raw = {"unit": 9} if OLD else unit
    good(client.write_register(0, 4711, **unit))
    good(client.write_registers(1, [1, 65535] + swapped(230.4), **unit))
    assert good(client.read_holding_registers(0, count=3, **unit)).registers == [4711, 1, 65535]
    assert good(client.read_holding_registers(3, count=2, **unit)).registers == swapped(230.4)
    assert good(client.read_input_registers(0, count=2, **unit)).registers == [100, 200]
    good(client.write_coil(0, True, **unit))
    good(client.write_coils(1, [False, True, True], **unit))
    assert good(client.read_coils(0, count=4, **unit)).bits[:4] == [True, False, True, True]
    assert good(client.read_discrete_inputs(0, count=2, **unit)).bits[:2] == [False, True]
    good(client.write_register(6, 0x0012, **unit))
    good(client.mask_write_register(address=6, and_mask=0x00F2, or_mask=0x0025, **raw))
    assert good(client.read_holding_registers(6, count=1, **unit)).registers == [0x0017], "the specification's example"
    both = client.readwrite_registers(read_address=6, read_count=2, write_address=7, **({"write_registers": [77]} if OLD else {"values": [77]}), **raw)
    assert good(both).registers == [0x0017, 77]
    missing = client.read_holding_registers(60, count=1, **unit)
    assert missing.isError() and missing.exception_code == 2, missing
    many = client.read_holding_registers(0, count=125, **unit)
    assert many.isError() and many.exception_code in (2, 3), many
    if OLD:
        who = client.execute(ReadDeviceInformationRequest(read_code=1, object_id=0, unit=9))
        information = good(who).information
    else:
        information = good(client.read_device_information(read_code=1, object_id=0, **unit)).information
    assert information[0] == b"Maker" and information[1] == b"Product", information
    client.close()
    print("ok")


main(sys.argv[1], int(sys.argv[2]))
