"""A Modbus master on pymodbus (3.0 as Debian has it, or newer): asks unit 9 for every function and fails where an answer
is not right. The unit has holding registers 0 to 7, inputs 0 and 1 holding 100 and 200, coils 0 to 3, discrete inputs 0
(off) and 1 (on), and an identity.

usage: pymodbus_master.py tcp|rtu-over-tcp PORT
"""

import struct
import sys

from pymodbus.client import ModbusTcpClient

try:  # 3.0
    from pymodbus.diag_message import ReturnQueryDataRequest
    from pymodbus.file_message import FileRecord, ReadFifoQueueRequest, ReadFileRecordRequest, WriteFileRecordRequest
    from pymodbus.mei_message import ReadDeviceInformationRequest
    from pymodbus.other_message import ReadExceptionStatusRequest, ReportSlaveIdRequest
    from pymodbus.transaction import ModbusRtuFramer, ModbusSocketFramer

    FRAMERS, UNIT = {"tcp": ModbusSocketFramer, "rtu-over-tcp": ModbusRtuFramer}, "slave"
    OLD = True
except ImportError:  # 3.11 and newer
    from pymodbus import FramerType
    from pymodbus.pdu.file_message import FileRecord

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
    # Files are windows on the holding registers; two groups in one request. 5 and 6 hold 43 and 44, 4 the length of a queue.
    pack = struct.Struct(">HH").pack
    one, two = FileRecord(file_number=4, record_number=5, record_data=pack(43, 44)), FileRecord(file_number=4, record_number=4, record_data=b"\0\3")
    if OLD:
        good(client.execute(WriteFileRecordRequest([one, two], unit=9)))
        groups = [FileRecord(file_number=4, record_number=5, record_length=2), FileRecord(file_number=4, record_number=0, record_length=1)]
        records = good(client.execute(ReadFileRecordRequest(groups, unit=9))).records
    else:
        good(client.write_file_record([one, two], **unit))
        groups = [FileRecord(file_number=4, record_number=5, record_length=4), FileRecord(file_number=4, record_number=0, record_length=2)]
        records = good(client.read_file_record(groups, **unit)).records
    assert [record.record_data for record in records] == [pack(43, 44), struct.pack(">H", 4711)], records
    if OLD:
        assert good(client.execute(ReportSlaveIdRequest(unit=9))).identifier[:13] == b"Maker Product"
        assert good(client.execute(ReadExceptionStatusRequest(unit=9))).status == 0
        # Its diagnostics give nothing of the data.
        good(client.execute(ReturnQueryDataRequest(0x1234, unit=9)))
        good(client.execute(ReadFifoQueueRequest(4, unit=9)))
    else:
        assert good(client.report_device_id(**unit)).identifier[:13] == b"Maker Product"
        assert good(client.read_exception_status(**unit)).status == 0
        assert good(client.diag_query_data(b"\x12\x34", **unit)).message == b"\x12\x34"
        if kind == "tcp":  # 3.16 takes a queue's RTU frame for two bytes shorter than it is
            assert good(client.read_fifo_queue(address=4, **unit)).values == [43, 44, 77]
    client.close()
    print("ok")


main(sys.argv[1], int(sys.argv[2]))
