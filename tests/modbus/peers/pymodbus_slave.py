"""A Modbus slave on pymodbus (3.0 as Debian has it, or newer): 200 of each table, register n holds n, bit n is set where
n is divisible by 3. Unit 5.

usage: pymodbus_slave.py tcp|rtu-over-tcp PORT [FAULTS]
       pymodbus_slave.py tls PORT CA CERTIFICATE KEY [FAULTS]
       pymodbus_slave.py rtu|ascii DEVICE BAUD [FAULTS]
FAULTS such as drop,damage,stray: every fifth reply suffers the next of them.
"""

import asyncio
import itertools
import ssl
import sys
import time

from pymodbus.datastore import ModbusSequentialDataBlock, ModbusServerContext
from pymodbus.server import StartAsyncSerialServer, StartAsyncTcpServer, StartAsyncTlsServer

try:  # 3.0
    from pymodbus.datastore import ModbusSlaveContext
    from pymodbus.device import ModbusDeviceIdentification
    from pymodbus.factory import ServerDecoder
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

    FRAMERS = {"tcp": FramerType.SOCKET, "rtu": FramerType.RTU, "ascii": FramerType.ASCII}
    DEVICES = "devices"

    def table(values):
        # Newer ones count registers from 1 on.
        return ModbusSequentialDataBlock(1, values)

    def device(bits, words):
        return ModbusDeviceContext(di=bits(), co=bits(), ir=words(), hr=words())


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
    who.VendorName, who.ProductCode, who.MajorMinorRevision, who.ProductName = "pymodbus", "PM", "3.0", "slave"
    return who


async def serve(arguments):
    kind, place = arguments[0], arguments[1]
    framing = {"rtu-over-tcp": "rtu", "tls": "tcp"}.get(kind, kind)
    extra = {"tls": 5, "rtu": 3, "ascii": 3}.get(kind, 2)
    faults = Faults(arguments[extra] if len(arguments) > extra else "", framing)
    common = {"context": context(), "identity": identity(), "framer": FRAMERS[framing], **faults.settings()}
    if kind in ("rtu", "ascii"):
        running = StartAsyncSerialServer(port=place, baudrate=int(arguments[2]), bytesize=8, parity="N", stopbits=1, **common)
    elif kind == "tls":
        # Both sides show certificates, and the frames keep their header, as Modbus/TCP Security has it.
        secured = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=arguments[2])
        secured.verify_mode = ssl.CERT_REQUIRED
        secured.load_cert_chain(arguments[3], arguments[4])
        running = StartAsyncTlsServer(address=("127.0.0.1", int(place)), sslctx=secured, **common)
    else:
        running = StartAsyncTcpServer(address=("127.0.0.1", int(place)), **common)
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
