"""A Modbus slave on pymodbus (3.0 as Debian has it, or newer): 200 of each table, register n holds n, bit n is set where
n is divisible by 3; file 4 with 100 records, record n holds 4000 + n. Unit 5. Its revision
is the environment's REVISION.

usage: pymodbus_slave.py tcp|rtu-over-tcp PORT [FAULTS]
       pymodbus_slave.py tls PORT CA CERTIFICATE KEY [FAULTS]
       pymodbus_slave.py rtu|ascii DEVICE BAUD [FAULTS]
FAULTS such as drop,damage,stray: every fifth reply suffers the next of them.
"""

import asyncio
import itertools
import os
import ssl
import struct
import sys
import time

from pymodbus.datastore import ModbusSequentialDataBlock, ModbusServerContext
from pymodbus.server import StartAsyncSerialServer, StartAsyncTcpServer, StartAsyncTlsServer

try:  # 3.0
    from pymodbus.datastore import ModbusSlaveContext
    from pymodbus.device import ModbusDeviceIdentification
    from pymodbus.factory import ServerDecoder
    from pymodbus.file_message import ReadFileRecordRequest, ReadFileRecordResponse, WriteFileRecordRequest
    from pymodbus.transaction import ModbusAsciiFramer, ModbusRtuFramer, ModbusSocketFramer

    FRAMERS = {"tcp": ModbusSocketFramer, "rtu": ModbusRtuFramer, "ascii": ModbusAsciiFramer}
    DEVICES = "slaves"

    def table(values):
        return ModbusSequentialDataBlock(0, values)

    def device(bits, words):
        return ModbusSlaveContext(di=bits(), co=bits(), ir=words(), hr=words(), zero_mode=True)

except ImportError:  # 3.11 and newer
    from pymodbus import FramerType, ModbusDeviceIdentification
    from pymodbus.datastore import ModbusDeviceContext
    from pymodbus.pdu.file_message import FileRecord, ReadFileRecordRequest, ReadFileRecordResponse, WriteFileRecordRequest

    FRAMERS = {"tcp": FramerType.SOCKET, "rtu": FramerType.RTU, "ascii": FramerType.ASCII}
    DEVICES = "devices"

    def table(values):
        # Newer ones count registers from 1 on.
        return ModbusSequentialDataBlock(1, values)

    def device(bits, words):
        return ModbusDeviceContext(di=bits(), co=bits(), ir=words(), hr=words())


REVISION = os.environ.get("REVISION", "3.0")

# Records 0 to 99 of file 4; record n holds 4000 + n.
FILE = {n: 4000 + n for n in range(100)}


def contents(record):
    words = [FILE[record.record_number + n] for n in range(record.record_length)]
    return struct.pack(f">{len(words)}H", *words)


def keep(records):
    for record in records:
        words = struct.unpack(f">{len(record.record_data) // 2}H", record.record_data)
        FILE.update({record.record_number + n: word for n, word in enumerate(words)})


# Both versions decode and encode files, and leave what is in them to others.
if DEVICES == "slaves":

    class Given(ReadFileRecordResponse):
        def encode(self):  # 3.0 exchanges length and reference type
            groups = [struct.pack("BB", len(r.record_data) + 1, 6) + r.record_data for r in self.records]
            return struct.pack("B", sum(map(len, groups))) + b"".join(groups)

    class Read(ReadFileRecordRequest):
        def execute(self, _context):
            for record in self.records:
                record.record_data = contents(record)
            return Given(self.records)

    class Write(WriteFileRecordRequest):
        def execute(self, context):
            keep(self.records)
            return super().execute(context)

    FILES = {"custom_functions": [Read, Write]}

else:

    class Read(ReadFileRecordRequest):
        def decode(self, data):  # 3.16 takes the registers asked for as bytes
            self.records = []
            for at in range(1, data[0], 7):
                _, file, number, length = struct.unpack(">BHHH", data[at : at + 7])
                self.records.append(FileRecord(file_number=file, record_number=number))
                self.records[-1].record_length = length

        async def datastore_update(self, context, device_id):
            for record in self.records:
                record.record_data = contents(record)
            return ReadFileRecordResponse(records=self.records, dev_id=device_id, transaction_id=self.transaction_id)

    class Write(WriteFileRecordRequest):
        async def datastore_update(self, context, device_id):
            keep(self.records)
            return await super().datastore_update(context, device_id)

    FILES = {"custom_pdu": [Read, Write]}


class Faults:
    """Spoils every fifth reply in one way after the other."""

    def __init__(self, names, framing):
        self.kinds = itertools.cycle(names.split(",")) if names else None
        self.framing, self.count = framing, 0

    def spoil(self, frame):
        self.count += 1
        if self.kinds is None or self.count % 5:
            return frame
        kind = next(self.kinds)
        if kind == "drop":
            return b""
        if kind == "damage":  # the last character before the end of the frame
            at = -3 if self.framing == "ascii" else -1
            changed = bytearray(frame)
            changed[at] ^= 0x01
            return bytes(changed)
        if kind == "stray":  # another transaction's reply before the right one
            return bytes([frame[0] ^ 0x40]) + frame[1:] + frame
        if kind == "late":
            time.sleep(0.25)
            return frame
        raise SystemExit(f"no such fault: {kind}")

    def settings(self):
        if self.kinds is None:
            return {}
        if DEVICES == "devices":
            return {"trace_packet": lambda sending, frame: self.spoil(frame) if sending else frame}
        framer = FRAMERS[self.framing](ServerDecoder())
        return {"response_manipulator": lambda reply: (self.spoil(framer.buildPacket(reply)), True)}


def context():
    unit = device(lambda: table([n % 3 == 0 for n in range(200)]), lambda: table(list(range(200))))
    return ModbusServerContext(**{DEVICES: {5: unit}}, single=False)


def identity():
    who = ModbusDeviceIdentification()
    who.VendorName, who.ProductCode, who.MajorMinorRevision, who.ProductName = "pymodbus", "PM", REVISION, "slave"
    return who


async def serve(arguments):
    kind, place = arguments[0], arguments[1]
    framing = {"rtu-over-tcp": "rtu", "tls": "tcp"}.get(kind, kind)
    extra = {"tls": 5, "rtu": 3, "ascii": 3}.get(kind, 2)
    faults = Faults(arguments[extra] if len(arguments) > extra else "", framing)
    common = {"context": context(), "identity": identity(), "framer": FRAMERS[framing], **FILES, **faults.settings()}
    if kind in ("rtu", "ascii"):
        running = StartAsyncSerialServer(port=place, baudrate=int(arguments[2]), bytesize=8, parity="N", stopbits=1, **common)
    elif kind == "tls":
        # Both sides show certificates, and the frames keep their header, as Modbus/TCP Security has it.
        secured = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=arguments[2])
        secured.verify_mode = ssl.CERT_REQUIRED
        secured.load_cert_chain(arguments[3], arguments[4])
        running = StartAsyncTlsServer(address=("127.0.0.1", int(place)), sslctx=secured, **common)
    else:
        # One that is started anew takes the port of the one before it; newer ones do by themselves.
        again = {"allow_reuse_address": True} if DEVICES == "slaves" else {}
        running = StartAsyncTcpServer(address=("127.0.0.1", int(place)), **again, **common)
    serving = asyncio.ensure_future(running)
    await asyncio.sleep(0)
    if kind not in ("rtu", "ascii"):
        while True:  # until the port answers
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", int(place))
                writer.close()
                break
            except OSError:
                await asyncio.sleep(0.02)
    else:
        await asyncio.sleep(0.3)
    print("ready", flush=True)
    await serving


asyncio.run(serve(sys.argv[1:]))
