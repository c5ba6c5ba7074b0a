//! Several requests under way on one connection: what will be asked next is sent while an answer is still awaited.
//! Only where the bus or the profiles permit it, and only to units that answer.

use tokio::time::Instant;

use super::{
    owner::Owner,
    pdu::Request,
    plan::Block,
    schedule::{UnitKey, Work},
    unit::Unit,
};

impl Owner<'_> {
    /// Sends the block that is wanted now, those of the same cycle and those of other units that are due, until as many
    /// are under way as the endpoint takes. A failure shows when the answer is asked for.
    pub(super) async fn send_ahead<'b>(&mut self, key: UnitKey, blocks: impl Iterator<Item = &'b Block>) {
        let most = usize::from(self.bus.in_flight);
        if most < 2 || !self.bus.gap.is_zero() {
            return;
        }
        let Some(wire) = self.wire.as_ref().filter(|wire| wire.tells_apart()) else { return };
        let under_way = wire.under_way();
        // Several at once cost one wake-up of the other side.
        if under_way > most / 2 {
            return;
        }
        let now = Instant::now();
        let mut wanted: Vec<(u8, Request, std::time::Duration)> = Vec::new();
        let mut want = |unit: &Unit, block: &Block| {
            let request = Request::read(block.table, block.address, block.count);
            let able = unit.health.is_online() && !unit.busy && unit.device.gap.is_zero();
            if able && unit.worth_asking(block, now) && !wire.is_ahead(unit.device.unit, &request) {
                wanted.push((unit.device.unit, request, unit.device.timeout));
            }
            wanted.len() + under_way < most
        };
        if let Some(unit) = self.units.get(&key)
            && blocks.into_iter().all(|block| want(unit, block))
        {
            for due in self.schedule.due(now) {
                let Work::Group(group) = due.work else { continue };
                let Some(unit) = self.units.get(&due.unit) else { continue };
                let Some(group) = unit.groups.get(group) else { continue };
                let current = unit.generation == due.generation && unit.set_up;
                if current && !group.blocks.iter().all(|block| want(unit, block)) {
                    break;
                }
            }
        }
        let tracing = !self.scopes.is_empty();
        let Some(wire) = &mut self.wire else { return };
        wire.tracing = tracing;
        for (unit, request, timeout) in wanted {
            if wire.send_ahead(unit, request, timeout).await.is_err() {
                return;
            }
        }
    }
}
