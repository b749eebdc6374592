export { idempotencyInterceptor } from './idempotency.interceptor';
export { PaymentService } from './payment.service';
export { IDEMPOTENCY_KEY, provideIdempotency, WITHOUT_IDEMPOTENCY } from './settings';
export type { IdempotencyOptions } from './settings';
