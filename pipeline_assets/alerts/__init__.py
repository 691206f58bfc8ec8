"""What people are alerted to: runs and checks that failed, and what was decided about models; one message per cause, until it is over.

It is no room: it reads what all rooms record. `incidents` is what is wrong and since when, `outbox` what has to be sent to whom, `send` the
program that sends it, `sensors` reads the events. All state is in the cursor of the sensor.
"""
